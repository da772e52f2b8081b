//! What went through a container's links.

use std::os::fd::AsFd;

use sampan_kernel::netns;

use crate::links::Links;
use crate::net::{Net, OpenError};

/// Packets and bytes of one link, as the container sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LinkCounters {
    /// Bytes that came in.
    pub rx_bytes: u64,
    /// Packets that came in.
    pub rx_packets: u64,
    /// Of them, broken ones.
    pub rx_errors: u64,
    /// Of them, those that nobody took.
    pub rx_dropped: u64,
    /// Bytes that went out.
    pub tx_bytes: u64,
    /// Packets that went out.
    pub tx_packets: u64,
    /// Of them, those that could not be sent.
    pub tx_errors: u64,
    /// Of them, those for which there was no room.
    pub tx_dropped: u64,
}

impl Net {
    /// The counters of all links in the namespace of `key` but the loopback, by name.
    ///
    /// # Errors
    /// If there is no such namespace, or the kernel does not tell.
    pub fn counters(&self, key: &str) -> Result<Vec<(String, LinkCounters)>, OpenError> {
        let failed = || OpenError::on(format!("read the counters of `{key}`"));
        let namespace = netns::open(&self.namespaces().join(key)).map_err(failed())?;
        let links = netns::within(namespace.as_fd(), || Links::open()?.all()).map_err(failed())?;
        let mut counters: Vec<_> = links
            .into_iter()
            .filter_map(|link| {
                let c = link.counters?;
                let counters = LinkCounters {
                    rx_bytes: c.rx_bytes,
                    rx_packets: c.rx_packets,
                    rx_errors: c.rx_errors,
                    rx_dropped: c.rx_dropped,
                    tx_bytes: c.tx_bytes,
                    tx_packets: c.tx_packets,
                    tx_errors: c.tx_errors,
                    tx_dropped: c.tx_dropped,
                };
                Some((link.name, counters))
            })
            .collect();
        counters.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(counters)
    }
}
