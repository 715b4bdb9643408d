//! The ports of a mesh's conversations.
#![forbid(unsafe_code)]

use std::fmt;

/// From 1 to 16 distinct ports, none of them 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Sorted, and behind them zeros.
    sorted: [u16; Self::MOST],
}

impl Ports {
    /// The limit: each port brings six policies for every peer.
    pub const MOST: usize = 16;

    /// A single port, 1 to 65535.
    pub fn one(port: u16) -> Self {
        Self::new(&[port]).expect("a port is not 0")
    }

    /// These ports, in any order; `None` if they are too few, too many, 0 or not distinct.
    pub fn new(ports: &[u16]) -> Option<Self> {
        let mut sorted = [0; Self::MOST];
        let used = sorted.get_mut(..ports.len())?;
        used.copy_from_slice(ports);
        used.sort_unstable();
        let is_right = used.first().is_some_and(|port| *port > 0)
            && used.windows(2).all(|two| two[0] < two[1]);
        is_right.then_some(Self { sorted })
    }

    /// All of them, the smallest first.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        self.sorted.into_iter().take_while(|port| *port > 0)
    }
}

impl fmt::Display for Ports {
    /// `port 443`, or `ports 2181, 2888`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.iter().map(|port| port.to_string()).collect();
        let noun = if numbers.len() == 1 { "port" } else { "ports" };
        write!(f, "{noun} {}", numbers.join(", "))
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct_and_in_order() {
        let ports = Ports::new(&[3888, 2181, 2888]).unwrap();
        assert_eq!(ports.iter().collect::<Vec<_>>(), [2181, 2888, 3888]);
        assert_eq!(Some(ports), Ports::new(&[2888, 3888, 2181]));
        assert_eq!(ports.to_string(), "ports 2181, 2888, 3888");
        assert_eq!(Ports::one(443).to_string(), "port 443");
        let many: Vec<u16> = (65_519..=65_535).collect();
        assert_eq!(Ports::new(&many[1..]).unwrap().iter().count(), 16);
        for wrong in [&[][..], &[0], &[443, 0], &[443, 80, 443], &many] {
            assert_eq!(Ports::new(wrong), None, "{wrong:?}");
        }
    }
}
