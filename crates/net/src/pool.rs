//! Network namespaces made ahead: to make one takes the kernel longer than most of what else a container's start needs.
//!
//! They live by descriptors of this process alone, so a daemon that is killed leaves none.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_kernel::netns;
use sampan_kernel::userns::{self, Maps};

use crate::bridges::set_sysctl;

/// How many are kept at most, of each mapping. One of the kernel's takes some 100 KiB.
const MOST: usize = 16;
const STACK_BYTES: usize = 128 << 10;

/// Namespaces that nobody has yet.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    shared: Arc<Mutex<Stock>>,
}

/// A network namespace, and the user namespace that it belongs to if that is not the host's.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) network: File,
    pub(crate) user: Option<File>,
}

#[derive(Debug, Default)]
struct Stock {
    /// By the mapping of their user namespace.
    shelves: BTreeMap<Option<Maps>, Shelf>,
    filling: bool,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shelf {
    spare: Vec<Made>,
    /// How many there are to be; grows with demand, so that who starts few containers pays for few.
    wanted: usize,
}

impl Pool {
    /// One from the stock, or a new one if it is empty. The stock is filled up behind the caller's back; of a mapping that
    /// none were prepared for, nothing is kept.
    pub(crate) fn take(&self, maps: Option<&Maps>) -> io::Result<Made> {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let key = maps.cloned();
        if maps.is_none() {
            stock.shelves.entry(None).or_default();
        }
        let taken = stock.shelves.get_mut(&key).and_then(|shelf| {
            let taken = shelf.spare.pop();
            if taken.is_none() {
                shelf.wanted = (shelf.wanted * 2).clamp(2, MOST);
            }
            taken
        });
        self.fill(&mut stock);
        drop(stock);
        match taken {
            Some(made) => Ok(made),
            None => make(maps),
        }
    }

    /// Makes some ahead, behind the caller's back.
    pub(crate) fn prepare(&self, maps: Option<&Maps>, count: usize) {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = stock.shelves.entry(maps.cloned()).or_default();
        shelf.wanted = shelf.wanted.max(count.min(MOST));
        self.fill(&mut stock);
    }

    /// Ends them all; none is made any more.
    pub(crate) fn close(&self) {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        stock.closed = true;
        stock.shelves.clear();
    }

    fn fill(&self, stock: &mut Stock) {
        if stock.filling || stock.lacking().is_none() {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("netns".into()).stack_size(STACK_BYTES);
        // Without a thread there is no stock, and each is made when it is needed.
        stock.filling = builder.spawn(move || fill(&shared)).is_ok();
    }
}

impl Stock {
    /// A mapping of which there are too few.
    fn lacking(&self) -> Option<Option<Maps>> {
        let mut shelves = self.shelves.iter().filter(|(_, shelf)| shelf.spare.len() < shelf.wanted);
        shelves.next().filter(|_| !self.closed).map(|(maps, _)| maps.clone())
    }
}

fn fill(shared: &Mutex<Stock>) {
    loop {
        let maps = {
            let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(maps) = stock.lacking() else {
                stock.filling = false;
                return;
            };
            maps
        };
        let made = make(maps.as_ref());
        let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shelf = stock.shelves.get_mut(&maps);
        match (made, shelf) {
            (Ok(made), Some(shelf)) => shelf.spare.push(made),
            _ => {
                // It was closed; or whoever needs one will be told what is the matter.
                stock.filling = false;
                return;
            }
        }
    }
}

fn make(maps: Option<&Maps>) -> io::Result<Made> {
    let Some(maps) = maps else { return Ok(Made { network: netns::make(settle)?, user: None }) };
    let pair = userns::make_pair(maps)?;
    begin(&pair.network)?;
    Ok(Made { network: pair.network, user: Some(pair.user) })
}

/// One that belongs to the user namespace `owner`, which is somebody else's already.
pub(crate) fn make_in(owner: &File) -> io::Result<File> {
    let network = userns::make_network(owner.as_fd())?;
    begin(&network)?;
    Ok(network)
}

fn begin(network: &File) -> io::Result<()> {
    netns::within(network.as_fd(), || {
        netns::raise_loopback()?;
        settle()
    })
}

/// Links that come into it have no IPv6 unless it is switched on for them: without a subnet it would only give each link
/// an address of its own making, and make the kernel look for routers.
fn settle() -> io::Result<()> {
    const OFF: &str = "net/ipv6/conf/default/disable_ipv6";
    if Path::new("/proc/sys").join(OFF).exists() { set_sysctl(OFF, "1") } else { Ok(()) }
}
