//! Transactions on nftables, and looking at chains of others.

use std::io;

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_netfilter::nftables::{NfTablesMessage, RuleAttribute, RuleMessage};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily,
};

use super::Family;
use super::expr::Expr;
use super::rules::Step;
use crate::netlink::Conversation;

/// nftables of one network namespace.
#[derive(Debug)]
pub(crate) struct Tables(Conversation);

/// A rule of somebody else's chain.
#[derive(Debug)]
pub(crate) struct ForeignRule {
    pub(crate) handle: u64,
    /// What whoever made it has attached to it.
    pub(crate) user_data: Vec<u8>,
}

impl Tables {
    /// Those of this thread's namespace.
    pub(crate) fn open() -> io::Result<Tables> {
        Conversation::open(netlink_sys::protocols::NETLINK_NETFILTER).map(Tables)
    }

    /// Whether this is the socket that the kernel calls `port`.
    pub(crate) fn is_from(&self, port: u32) -> bool {
        self.0.port() == port
    }

    /// Does all of `steps`, or on an error none.
    pub(crate) fn commit(&mut self, steps: Vec<Step>) -> io::Result<()> {
        if steps.is_empty() {
            return Ok(());
        }
        // The header of a batch's ends names the subsystem in place of a family's data.
        let end = |message| {
            NetfilterMessage::new(NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 10), message)
        };
        let mut messages = vec![(end(ControlMessage::BatchBegin), 0)];
        messages.extend(steps.into_iter().map(|(family, step, flags)| (of(family, step), flags)));
        messages.push((end(ControlMessage::BatchEnd), 0));
        self.0.send_all(messages)
    }

    /// The rules of `chain` in `table`; none if there is no such chain.
    pub(crate) fn rules(&mut self, table: &str, chain: &str) -> io::Result<Option<Vec<ForeignRule>>> {
        let filter = RuleMessage {
            attributes: vec![RuleAttribute::Table(table.to_owned()), RuleAttribute::Chain(chain.to_owned())],
        };
        // A dump of a chain that is not there is empty, as is that of an empty chain; so the chain is asked for first.
        if !self.has_chain(table, chain)? {
            return Ok(None);
        }
        let answers = self.0.get(of(Family::V4, NfTablesMessage::GetRule(filter)), NLM_F_DUMP)?;
        let mut rules = Vec::new();
        for answer in answers {
            let NetfilterMessageInner::NfTables(NfTablesMessage::NewRule(rule)) = answer.inner else {
                continue;
            };
            let mut found = ForeignRule { handle: 0, user_data: Vec::new() };
            for attribute in rule.attributes {
                match attribute {
                    RuleAttribute::Handle(handle) => found.handle = handle,
                    RuleAttribute::UserData(data) => found.user_data = data,
                    _ => {}
                }
            }
            rules.push(found);
        }
        Ok(Some(rules))
    }

    /// Whether there is such a chain.
    pub(crate) fn has_chain(&mut self, table: &str, chain: &str) -> io::Result<bool> {
        use netlink_packet_netfilter::nftables::{ChainAttribute, ChainMessage};
        let message = ChainMessage {
            attributes: vec![ChainAttribute::Table(table.to_owned()), ChainAttribute::Name(chain.to_owned())],
        };
        match self.0.get(of(Family::V4, NfTablesMessage::GetChain(message)), 0) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(e),
        }
    }
}

/// The step that inserts a rule at the beginning of a chain.
pub(crate) fn insert_rule(table: &str, chain: &str, expressions: Vec<Expr>, user_data: Vec<u8>) -> Step {
    use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE};
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Expressions(expressions),
        RuleAttribute::UserData(user_data),
    ];
    (Family::V4, NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_ACK | NLM_F_CREATE)
}

/// The step that deletes one rule.
pub(crate) fn delete_rule(table: &str, chain: &str, handle: u64) -> Step {
    use netlink_packet_core::NLM_F_ACK;
    let attributes = vec![
        RuleAttribute::Table(table.to_owned()),
        RuleAttribute::Chain(chain.to_owned()),
        RuleAttribute::Handle(handle),
    ];
    (Family::V4, NfTablesMessage::DeleteRule(RuleMessage { attributes }), NLM_F_ACK)
}

fn of(family: Family, message: NfTablesMessage) -> NetfilterMessage {
    let family = match family {
        Family::V4 => NetfilterProtoFamily::IPv4,
        Family::V6 => NetfilterProtoFamily::IPv6,
    };
    NetfilterMessage::new(NetfilterHeader::new(family, 0, 0), message)
}
