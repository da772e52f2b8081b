//! Network namespaces made ahead: to make one takes the kernel longer than most of what else a container's start needs.
//!
//! They live by descriptors of this process alone, so a daemon that is killed leaves none.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sampan_kernel::netns;

use crate::bridges::set_sysctl;

/// How many are kept at most. One of the kernel's takes some 100 KiB.
const MOST: usize = 16;
const STACK_BYTES: usize = 128 << 10;

/// Namespaces that nobody has yet.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    shared: Arc<Mutex<Stock>>,
}

#[derive(Debug, Default)]
struct Stock {
    spare: Vec<File>,
    /// How many there are to be; grows with demand, so that who starts few containers pays for few.
    wanted: usize,
    filling: bool,
    closed: bool,
}

impl Pool {
    /// One from the stock, or a new one if it is empty. The stock is filled up behind the caller's back.
    pub(crate) fn take(&self) -> io::Result<File> {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = stock.spare.pop();
        if taken.is_none() {
            stock.wanted = (stock.wanted * 2).clamp(2, MOST);
        }
        self.fill(&mut stock);
        drop(stock);
        match taken {
            Some(namespace) => Ok(namespace),
            None => make(),
        }
    }

    /// Makes some ahead, behind the caller's back.
    pub(crate) fn prepare(&self, count: usize) {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        stock.wanted = stock.wanted.max(count.min(MOST));
        self.fill(&mut stock);
    }

    /// Ends them all; none is made any more.
    pub(crate) fn close(&self) {
        let mut stock = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        stock.closed = true;
        stock.spare.clear();
    }

    fn fill(&self, stock: &mut Stock) {
        if stock.filling || stock.closed || stock.spare.len() >= stock.wanted {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let builder = std::thread::Builder::new().name("netns".into()).stack_size(STACK_BYTES);
        // Without a thread there is no stock, and each is made when it is needed.
        stock.filling = builder.spawn(move || fill(&shared)).is_ok();
    }
}

fn fill(shared: &Mutex<Stock>) {
    loop {
        {
            let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if stock.closed || stock.spare.len() >= stock.wanted {
                stock.filling = false;
                return;
            }
        }
        let made = make();
        let mut stock = shared.lock().unwrap_or_else(PoisonError::into_inner);
        match made {
            Ok(namespace) if !stock.closed => stock.spare.push(namespace),
            _ => {
                // Whoever needs one will be told what is the matter.
                stock.filling = false;
                return;
            }
        }
    }
}

/// A namespace with `lo` up. Links that come into it have no IPv6 unless it is switched on for them: without a subnet it
/// would only give each link an address of its own making, and make the kernel look for routers.
fn make() -> io::Result<File> {
    netns::make(|| {
        const OFF: &str = "net/ipv6/conf/default/disable_ipv6";
        if Path::new("/proc/sys").join(OFF).exists() { set_sysctl(OFF, "1") } else { Ok(()) }
    })
}
