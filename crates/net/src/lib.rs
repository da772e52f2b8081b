//! Container networks: bridge, addresses, nftables, published ports.
