//! Users of marks outside of iptables: routing rules, and systems by their devices.

use std::fs;

use futures_util::TryStreamExt;
use rtnetlink::{
    IpVersion,
    packet_route::rule::{RuleAttribute, RuleMessage},
};

use crate::kernel::{KernelError, SystemCause};

use super::{PROC_NET, facts};

/// Users in words, and the bits that they use.
///
/// # Errors
///
/// [`KernelError::System`] if the rules or devices can't be listed.
pub(super) fn of_marks() -> Result<Vec<(String, u32)>, KernelError> {
    let mut users = of_routing_rules()?;
    users.extend(of_devices()?);
    Ok(users)
}

fn of_devices() -> Result<Vec<(String, u32)>, KernelError> {
    let path = format!("{PROC_NET}/dev");
    let table = fs::read_to_string(&path).map_err(|error| KernelError::System {
        cause: SystemCause::Other,
        doing: format!("cannot read {path}"),
        reason: error.to_string(),
    })?;
    let names = table.lines().filter_map(|line| Some(line.split_once(':')?.0.trim()));
    let systems = names.filter_map(facts::system_of_device);
    Ok(systems.map(|(name, bits)| (name.to_owned(), bits)).collect())
}

fn of_routing_rules() -> Result<Vec<(String, u32)>, KernelError> {
    let failed = |reason: String| KernelError::System {
        cause: SystemCause::Other,
        doing: "cannot list routing rules".into(),
        reason,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let rules = runtime.block_on(list()).map_err(|error| failed(error.to_string()))?;
    Ok(rules.iter().filter_map(|(family, rule)| user(family, rule)).collect())
}

async fn list() -> Result<Vec<(&'static str, RuleMessage)>, Box<dyn std::error::Error>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    tokio::spawn(connection);
    let mut all = Vec::new();
    for (family, version) in [("IPv4", IpVersion::V4), ("IPv6", IpVersion::V6)] {
        let rules: Result<Vec<RuleMessage>, _> =
            handle.rule().get(version).execute().try_collect().await;
        match rules {
            Ok(rules) => all.extend(rules.into_iter().map(|rule| (family, rule))),
            // A kernel without IPv6 has no IPv6 rules.
            Err(_) if family == "IPv6" => {}
            Err(error) => return Err(error.into()),
        }
    }
    // There are always some rules: a failed dump of rtnetlink looks like an empty one.
    if all.is_empty() { Err("the kernel shows none".into()) } else { Ok(all) }
}

/// A rule that looks at marks.
#[allow(clippy::wildcard_enum_match_arm, reason = "rtnetlink has more attributes than are used")]
fn user(family: &str, rule: &RuleMessage) -> Option<(String, u32)> {
    let (mut mark, mut mask, mut priority) = (None, None, 0);
    for attribute in &rule.attributes {
        match attribute {
            RuleAttribute::FwMark(value) => mark = Some(*value),
            RuleAttribute::FwMask(value) => mask = Some(*value),
            RuleAttribute::Priority(value) => priority = *value,
            _ => {}
        }
    }
    let bits = mask.or(mark.map(|_| u32::MAX))?;
    (bits != 0).then(|| (format!("routing rule {priority} of {family} (fwmark)"), bits))
}
