//! Container networks: bridge, addresses, nftables, published ports.

/// Placeholder until the net helper's work lands.
#[derive(Debug)]
pub struct Net;
#[allow(missing_docs)]
impl Net { pub fn detach(&self, _: &str) -> Result<(), std::io::Error> { Ok(()) } }
