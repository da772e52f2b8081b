//! Living beside Docker and other owners of rules.
//!
//! Every table that hooks into forwarding sees each packet, and one `drop` is final: what our table accepts, another may
//! still drop. dockerd with iptables sets the policy of `FORWARD` in `table ip filter` to drop, so with it running,
//! nothing would get from our bridges to the world or back. Docker documents one chain for others to use,
//! `DOCKER-USER`, which comes first in `FORWARD`; if it is there, we insert four rules for each of our bridges, marked by
//! a comment: what goes to our bridge or comes from it is accepted there (our own table has the last word on what may
//! reach a container), but what goes from our bridge to `docker0` or `br-…` is left to Docker's isolation rules. They are
//! looked for at each attachment and each [`crate::Net::reconcile`], and removed by [`crate::Net::remove_all`]. They use
//! only what iptables itself writes, so that `iptables` and dockerd can still read their table.
//!
//! Not possible without touching what is not ours:
//! * a dockerd on legacy iptables: its tables can't be reached over nftables;
//! * dockerd's own nftables backend, or firewalld, or any other table with a policy of drop and without such a chain:
//!   its owner must accept our bridges;
//! * a Docker bridge with a name of the user's choice: our containers can open connections to its containers' addresses,
//!   for the rule that would leave that to Docker does not know the name;
//!
//! A dockerd that starts after our last attachment is noticed by [`crate::watch`].

use std::io;

use crate::nft::rules::docker_user_rules;
use crate::nft::table::{Tables, delete_rule, insert_rule};

pub(crate) const TABLE: &str = "filter";
pub(crate) const CHAIN: &str = "DOCKER-USER";

/// Sees to it that `DOCKER-USER`, if there is one, lets the traffic of `bridges` through. True if it had to be changed.
pub(crate) fn admit<'a>(
    tables: &mut Tables,
    owner: &str,
    bridges: impl IntoIterator<Item = &'a str>,
) -> io::Result<bool> {
    let Some(present) = tables.rules(TABLE, CHAIN)? else { return Ok(false) };
    let mut steps = Vec::new();
    for bridge in bridges {
        let wanted = docker_user_rules(bridge);
        let mark = mark(owner, bridge);
        let ours: Vec<u64> = present.iter().filter(|r| r.user_data == mark).map(|r| r.handle).collect();
        if ours.len() == wanted.len() {
            continue;
        }
        steps.extend(ours.into_iter().map(|handle| delete_rule(TABLE, CHAIN, handle)));
        steps.extend(wanted.into_iter().map(|rule| insert_rule(TABLE, CHAIN, rule, mark.clone())));
    }
    let changed = !steps.is_empty();
    tables.commit(steps)?;
    Ok(changed)
}

/// Removes the rules that [`admit`] has inserted for `owner`: all of them, or those of one bridge.
pub(crate) fn withdraw(tables: &mut Tables, owner: &str, bridge: Option<&str>) -> io::Result<()> {
    let Some(present) = tables.rules(TABLE, CHAIN)? else { return Ok(()) };
    let ours = |data: &[u8]| match bridge {
        Some(bridge) => data == mark(owner, bridge),
        None => {
            comment(data).is_some_and(|c| c.strip_prefix(owner).is_some_and(|rest| rest.starts_with(':')))
        }
    };
    let steps =
        present.iter().filter(|r| ours(&r.user_data)).map(|r| delete_rule(TABLE, CHAIN, r.handle)).collect();
    tables.commit(steps)
}

/// `<table>:<bridge>` as a comment, the way nft stores one: kind 0, length, text with its final NUL.
fn mark(owner: &str, bridge: &str) -> Vec<u8> {
    let text = format!("{owner}:{bridge}\0");
    let mut bytes = vec![0, u8::try_from(text.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn comment(data: &[u8]) -> Option<&str> {
    let [0, _, text @ ..] = data else { return None };
    std::str::from_utf8(text).ok()?.strip_suffix('\0')
}
