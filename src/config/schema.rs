//! The tables and keys of mesh.toml, each written once.
//!
//! Several things follow from here: the texts of errors about known keys, the table of a misplaced
//! key, the keys near a misspelling, and the values to mask. A new key is one constant and one line
//! of [`FIELDS`]; its table's file reads it.
#![forbid(unsafe_code)]

use super::types::Protocol;
use crate::{
    model::{Cipher, Generation, ShortId, Stage},
    mtu,
};

/// A table of mesh.toml.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Mesh,
    Traffic,
    Esp,
    Keys,
    Rotation,
    Link,
    Tunnel,
    Peer,
    /// `[[except]]`.
    Except,
    /// `kind = { … }` in `[traffic]`.
    Kind,
    /// `offload = { … }` in `[esp]`.
    Offload,
    /// `encap = { … }` in `[esp]`.
    Encap,
    /// `{ file = … }`, the value of each key in `[keys]`.
    Secret,
}

impl Table {
    /// The tables with a header of their own, in the order in which errors list them.
    pub(super) const TOP: [Self; 9] = [
        Self::Mesh,
        Self::Traffic,
        Self::Esp,
        Self::Keys,
        Self::Rotation,
        Self::Link,
        Self::Tunnel,
        Self::Peer,
        Self::Except,
    ];

    /// The table's name, without brackets.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Mesh => "mesh",
            Self::Traffic => "traffic",
            Self::Esp => "esp",
            Self::Keys => "keys",
            Self::Rotation => "rotation",
            Self::Link => "link",
            Self::Tunnel => "tunnel",
            Self::Peer => "peer",
            Self::Except => "except",
            Self::Kind => "kind",
            Self::Offload => "offload",
            Self::Encap => "encap",
            Self::Secret => "secret",
        }
    }

    /// The table as errors name it: by its header, or by the key that it is the value of.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Mesh => "[mesh]",
            Self::Traffic => "[traffic]",
            Self::Esp => "[esp]",
            Self::Keys => "[keys]",
            Self::Rotation => "[rotation]",
            Self::Link => "[link]",
            Self::Tunnel => "[tunnel]",
            Self::Peer => "[[peer]]",
            Self::Except => "[[except]]",
            Self::Kind | Self::Offload | Self::Encap | Self::Secret => self.name(),
        }
    }

    /// The place of the table's keys, as errors say it.
    pub(super) fn place(self) -> &'static str {
        match self {
            Self::Kind => "kind = { … } of [traffic]",
            Self::Offload => "offload = { … } of [esp]",
            Self::Encap => "encap = { … } of [esp]",
            Self::Mesh
            | Self::Traffic
            | Self::Esp
            | Self::Keys
            | Self::Rotation
            | Self::Link
            | Self::Tunnel
            | Self::Peer
            | Self::Except
            | Self::Secret => self.title(),
        }
    }

    /// The correction where the table is missing or is not a table.
    pub(super) fn write(self) -> &'static str {
        match self {
            Self::Mesh => "write [mesh] and name = \"…\" below it",
            Self::Traffic => "write [traffic] and its keys below it",
            Self::Esp => "write [esp] and its keys below it",
            Self::Keys => "write [keys] and mesh_key = { file = \"mesh.key\" } below it",
            Self::Rotation => "write [rotation] and generation = 1 or period = \"1h\" below it",
            Self::Link => "write [link] and device = \"vxlan42\" below it",
            Self::Tunnel => "write [tunnel] and device = \"mesh0\" below it",
            Self::Peer => "write a [[peer]] for each host, with name, short_id and address",
            Self::Except => {
                "write [[except]], with two brackets, and protocol, port and serves below it"
            }
            Self::Kind => KIND.write,
            Self::Offload => OFFLOAD.write,
            Self::Encap => ENCAP.write,
            Self::Secret => MESH_KEY.write,
        }
    }

    /// The table's keys, in the order in which errors list them.
    pub(super) fn keys(self) -> Vec<&'static str> {
        let own = |field: &&Field| field.table == self;
        FIELDS.iter().filter(own).map(|field| field.name).collect()
    }

    /// The table with a header of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::TOP.into_iter().find(|table| table.name() == name)
    }
}

/// A key of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    pub table: Table,
    pub name: &'static str,
    pub value: Form,
    /// The text that errors tell the operator to write.
    pub write: &'static str,
}

/// The values that may stand after the `=`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// Text that the key's own reader checks.
    Text,
    /// An array that the key's own reader checks.
    List,
    /// `true` or `false`.
    Boolean,
    /// A whole number.
    Number(Bounds),
    /// One of these words, or another value that the key's own reader takes.
    Word(&'static [&'static str]),
    /// A table that says where a secret is.
    Secret,
}

/// The least and the greatest number that a key takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub min: u64,
    pub max: u64,
    /// Errors show the bounds in hex.
    pub hex: bool,
}

impl Field {
    const fn new(table: Table, name: &'static str, value: Form, write: &'static str) -> Self {
        Self { table, name, value, write }
    }

    /// The numbers that the key takes; all numbers where it takes none.
    pub(super) fn bounds(&self) -> Bounds {
        match self.value {
            Form::Number(bounds) => bounds,
            Form::Text | Form::List | Form::Boolean | Form::Word(_) | Form::Secret => {
                Bounds { min: 0, max: u64::MAX, hex: false }
            }
        }
    }

    /// The words that the key takes.
    pub(super) fn words(&self) -> &'static [&'static str] {
        match self.value {
            Form::Word(words) => words,
            Form::Text | Form::List | Form::Boolean | Form::Number(_) | Form::Secret => &[],
        }
    }

    /// Whether the value names a secret, so that a secret that stands there by mistake is masked.
    fn is_secret(&self) -> bool {
        match self.value {
            Form::Secret => true,
            Form::Text | Form::List | Form::Boolean | Form::Number(_) | Form::Word(_) => false,
        }
    }
}

const fn number(min: u64, max: u64) -> Form {
    Form::Number(Bounds { min, max, hex: false })
}

pub(super) const MESH_NAME: Field =
    Field::new(Table::Mesh, "name", Form::Text, "write 1 to 32 of a-z 0-9 - in quotes");
pub(super) const REQID: Field = Field::new(
    Table::Mesh,
    "reqid",
    Form::Number(Bounds { min: 0x10000, max: 0xffff_ffff, hex: true }),
    "write a number from 0x10000 to 0xffffffff, or leave it out",
);

pub(super) const PAIRS: Field = Field::new(
    Table::Mesh,
    "pairs",
    Form::List,
    "write pairs such as [[\"hub\", \"*\"], [\"dc1\", \"dc1\"]], or leave it out: all are pairs",
);
pub(super) const INCLUDE: Field = Field::new(
    Table::Mesh,
    "include",
    Form::List,
    "write paths such as [\"peers.d/*.toml\", \"peers.json\"], or leave it out",
);
pub(super) const GROUPS: Field = Field::new(
    Table::Peer,
    "groups",
    Form::List,
    "write names of 1 to 63 of a-z 0-9 . - such as [\"dc1\", \"dc1-rack2\"]",
);
const STAGES: Form =
    Form::Word(&[Stage::Receive.name(), Stage::Send.name(), Stage::Enforce.name()]);
const WRITE_STAGE: &str = "write \"receive\", \"send\" or \"enforce\"";
pub(super) const MESH_STAGE: Field = Field::new(Table::Mesh, "stage", STAGES, WRITE_STAGE);
pub(super) const PEER_STAGE: Field = Field::new(Table::Peer, "stage", STAGES, WRITE_STAGE);

pub(super) const KIND: Field = Field::new(
    Table::Traffic,
    "kind",
    Form::Word(&["vxlan", "geneve", "all", "networks"]),
    "write \"vxlan\", \"geneve\", \"all\", \"networks\" or { protocol = \"tcp\", port = 443 }",
);
pub(super) const PORT: Field =
    Field::new(Table::Traffic, "port", number(1, 65535), "write a number from 1 to 65535");
pub(super) const SELECT: Field = Field::new(
    Table::Traffic,
    "select",
    Form::Word(&["port", "mark"]),
    "write \"port\" or \"mark\"",
);
pub(super) const MARK: Field = Field::new(
    Table::Traffic,
    "mark",
    Form::Text,
    "write \"VALUE/MASK\", such as \"0x20000/0x20000\": up to 32 bits each, in decimal or hex",
);
pub(super) const GUARD: Field =
    Field::new(Table::Traffic, "guard", Form::Word(&["xfrm"]), "write true, \"xfrm\" or false");
pub(super) const KIND_PROTOCOL: Field = Field::new(
    Table::Kind,
    "protocol",
    Form::Word(&[Protocol::Tcp.name(), Protocol::Udp.name()]),
    "write \"tcp\" or \"udp\"",
);
pub(super) const KIND_PORT: Field = Field {
    table: Table::Kind,
    write: "write a number from 1 to 65535, or a list such as [2181, 2888]",
    ..PORT
};

pub(super) const CIPHER: Field = Field::new(
    Table::Esp,
    "cipher",
    Form::Word(&[
        Cipher::Aes256Gcm.name(),
        Cipher::Aes128Gcm.name(),
        Cipher::ChaCha20Poly1305.name(),
    ]),
    "write \"aes256-gcm\", \"aes128-gcm\" or \"chacha20-poly1305\"",
);
pub(super) const ESN: Field = Field::new(Table::Esp, "esn", Form::Boolean, "write true or false");
pub(super) const REPLAY_WINDOW: Field = Field::new(
    Table::Esp,
    "replay_window",
    number(0, 4096),
    "write 0 or a power of two from 32 to 4096",
);
pub(super) const OFFLOAD: Field = Field::new(
    Table::Esp,
    "offload",
    Form::Text,
    "write the name of a device with ESP offload, or leave it out",
);
pub(super) const OFFLOAD_DEVICE: Field =
    Field::new(Table::Offload, "device", Form::Text, "write the name of a device with ESP offload");
pub(super) const OFFLOAD_MODE: Field = Field::new(
    Table::Offload,
    "mode",
    Form::Word(&["crypto"]),
    "write \"crypto\", or leave it out",
);

pub(super) const ENCAP: Field = Field::new(
    Table::Esp,
    "encap",
    number(1, 65535),
    "write a UDP port, such as 4500, or { port = 4500, from = 12 }",
);
pub(super) const ENCAP_PORT: Field = Field { table: Table::Encap, ..PORT };
pub(super) const ENCAP_FROM: Field = Field::new(
    Table::Encap,
    "from",
    number(0, Generation::MAX),
    "write the first generation in UDP, such as from = 12, or leave it out",
);
pub(super) const ENCAP_KEEPALIVE: Field = Field::new(
    Table::Encap,
    "keepalive",
    Form::Text,
    "write a time from 1s to 1h, such as keepalive = \"20s\", or leave it out",
);

pub(super) const MESH_KEY: Field =
    Field::new(Table::Keys, "mesh_key", Form::Secret, "write mesh_key = { file = \"mesh.key\" }");
pub(super) const PRIVATE_KEY: Field = Field::new(
    Table::Keys,
    "private_key",
    Form::Secret,
    "write private_key = { file = \"private.key\" }",
);
pub(super) const PSK: Field =
    Field::new(Table::Keys, "psk", Form::Secret, "write psk = { file = \"psk\" }");
pub(super) const RATCHET: Field =
    Field::new(Table::Keys, "ratchet", Form::Secret, "write ratchet = { file = \"ratchet\" }");
pub(super) const SECRET_FILE: Field =
    Field::new(Table::Secret, "file", Form::Text, "write a path in quotes, such as \"mesh.key\"");
pub(super) const SECRET_CREDENTIAL: Field = Field::new(
    Table::Secret,
    "credential",
    Form::Text,
    "write the name of a file in $CREDENTIALS_DIRECTORY, without /",
);
pub(super) const SECRET_ENV: Field =
    Field::new(Table::Secret, "env", Form::Text, "write the name of an environment variable");

pub(super) const GENERATION: Field = Field::new(
    Table::Rotation,
    "generation",
    number(0, Generation::MAX),
    "write a number from 0 up, such as generation = 1",
);
pub(super) const PERIOD: Field = Field::new(
    Table::Rotation,
    "period",
    Form::Text,
    "write a time from 10m to 1d, such as period = \"1h\"",
);

pub(super) const DEVICE: Field = Field::new(
    Table::Link,
    "device",
    Form::Text,
    "write the name of the tunnel's device, such as \"vxlan42\"",
);
pub(super) const MTU: Field = Field::new(
    Table::Link,
    "mtu",
    number(mtu::SMALLEST as u64, mtu::LARGEST as u64),
    "write \"auto\" or a number from 68 to 65535",
);

pub(super) const TUNNEL_DEVICE: Field = Field {
    table: Table::Tunnel,
    write: "write a name for the mesh's interface, such as \"mesh0\"",
    ..DEVICE
};
pub(super) const TUNNEL_MTU: Field = Field { table: Table::Tunnel, ..MTU };

pub(super) const PEER_NAME: Field =
    Field::new(Table::Peer, "name", Form::Text, "write 1 to 63 of a-z 0-9 . - in quotes");
pub(super) const SHORT_ID: Field = Field::new(
    Table::Peer,
    "short_id",
    number(0, ShortId::MAX as u64),
    "write a number from 0 to 4095, unique in the mesh",
);
pub(super) const ADDRESS: Field = Field::new(
    Table::Peer,
    "address",
    Form::Text,
    "write an IPv4 or IPv6 address in quotes, such as \"192.0.2.1\"",
);
pub(super) const OUTSIDE: Field = Field::new(
    Table::Peer,
    "outside",
    Form::Text,
    "write the address and port of the port forward, such as \"203.0.113.5:4500\"",
);
pub(super) const NETWORKS: Field = Field::new(
    Table::Peer,
    "networks",
    Form::List,
    "write the networks behind the host, such as [\"10.1.0.0/16\", \"fd00:1::/48\"]",
);
pub(super) const INSIDE: Field = Field::new(
    Table::Peer,
    "inside",
    Form::Text,
    "write the host's own address within its networks, such as \"10.1.0.1\", or leave it out",
);
pub(super) const EXCEPT_PROTOCOL: Field = Field { table: Table::Except, ..KIND_PROTOCOL };
pub(super) const EXCEPT_PORT: Field = Field { table: Table::Except, ..PORT };
pub(super) const SERVES: Field = Field::new(
    Table::Except,
    "serves",
    Form::List,
    "write the hosts that offer the service, such as serves = [\"b\"], or [\"*\"] for all",
);
pub(super) const EXCEPT_ICMP: Field = Field::new(
    Table::Except,
    "icmp",
    Form::Boolean,
    "write icmp = true, for echo requests and replies, or leave it out",
);
pub(super) const PUBLIC_KEY: Field = Field::new(
    Table::Peer,
    "public_key",
    Form::Text,
    "write what meshsec pubkey prints on that host, in quotes",
);

/// Every key of every table.
pub(super) const FIELDS: &[Field] = &[
    MESH_NAME,
    REQID,
    MESH_STAGE,
    PAIRS,
    INCLUDE,
    KIND,
    PORT,
    SELECT,
    MARK,
    GUARD,
    KIND_PROTOCOL,
    KIND_PORT,
    CIPHER,
    ESN,
    REPLAY_WINDOW,
    OFFLOAD,
    OFFLOAD_DEVICE,
    OFFLOAD_MODE,
    ENCAP,
    ENCAP_PORT,
    ENCAP_FROM,
    ENCAP_KEEPALIVE,
    MESH_KEY,
    PRIVATE_KEY,
    PSK,
    RATCHET,
    SECRET_FILE,
    SECRET_CREDENTIAL,
    SECRET_ENV,
    GENERATION,
    PERIOD,
    DEVICE,
    MTU,
    TUNNEL_DEVICE,
    TUNNEL_MTU,
    PEER_NAME,
    SHORT_ID,
    ADDRESS,
    PUBLIC_KEY,
    PEER_STAGE,
    GROUPS,
    OUTSIDE,
    NETWORKS,
    INSIDE,
    EXCEPT_PROTOCOL,
    EXCEPT_PORT,
    SERVES,
    EXCEPT_ICMP,
];

/// The table that a key belongs to, for errors; `None` for a key of several tables.
pub(super) fn belongs(key: &str) -> Option<Table> {
    // Exceptions have keys of [traffic] as well, and [tunnel] has those of [link]. Both are rarer.
    let rarer = [Table::Except, Table::Tunnel];
    let is_top = |table: Table| Table::TOP.contains(&table) && !rarer.contains(&table);
    let top = |field: &&Field| is_top(field.table);
    let named = || FIELDS.iter().filter(move |field| field.name == key);
    // A key that a table within a table has as well belongs to the table with a header.
    let mut tables = named().filter(top).chain(named().filter(|field| !top(field)));
    let first = tables.next()?.table;
    let second = tables.next().map(|field| field.table);
    let is_ambiguous = second.is_some_and(is_top);
    (!is_ambiguous && first != Table::Secret).then_some(first)
}

/// Whether a line of a file that could not be parsed begins with a word of mesh.toml
/// that holds no secret. Tables are meant as other formats write them, without brackets.
pub(super) fn begins_a_line(word: &str) -> bool {
    is_key(word) || Table::named(word).is_some_and(|table| table != Table::Keys)
}

/// Whether this is a key of mesh.toml, other than those that say where a secret is.
pub(super) fn is_key(word: &str) -> bool {
    FIELDS.iter().any(|field| field.name == word && field.table != Table::Secret)
}

/// Whether this key says where a secret is.
pub(super) fn is_place(word: &str) -> bool {
    FIELDS.iter().any(|field| field.name == word && field.table == Table::Secret)
}

/// The keys with secrets as values, at any place.
pub(super) fn secrets() -> impl Iterator<Item = &'static str> {
    FIELDS.iter().filter(|field| field.is_secret()).map(|field| field.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_keys_and_every_key_is_there_once() {
        for table in
            Table::TOP.into_iter().chain([Table::Kind, Table::Offload, Table::Encap, Table::Secret])
        {
            let mut keys = table.keys();
            assert!(!keys.is_empty(), "{table:?}");
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{table:?}");
        }
    }

    #[test]
    fn every_cipher_and_protocol_has_its_word() {
        assert_eq!(CIPHER.words(), Cipher::ALL.map(Cipher::name));
        assert_eq!(MESH_STAGE.words(), Stage::ALL.map(Stage::name));
        assert_eq!(KIND_PROTOCOL.words(), Protocol::ALL.map(Protocol::name));
    }

    #[test]
    fn a_key_belongs_in_its_table_unless_several_have_it() {
        for (key, table) in [
            ("offload", Some(Table::Esp)),
            ("mtu", Some(Table::Link)),
            ("port", Some(Table::Traffic)),
            ("device", Some(Table::Link)),
            ("mode", Some(Table::Offload)),
            ("name", None),
            ("file", None),
            ("colour", None),
        ] {
            assert_eq!(belongs(key), table, "{key}");
        }
    }
}
