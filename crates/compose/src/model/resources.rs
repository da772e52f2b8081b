//! What services share: networks, volumes, configs, secrets.

use serde::{Deserialize, Serialize};

use super::{Texts, none};

record! {
    /// A config or secret.
    pub struct FileObject {
        /// Another name than its key.
        pub name: String,
        /// Where it is.
        pub file: String,
        /// The variable that it is.
        pub environment: String,
        /// What it is.
        pub content: Option<String>,
        /// Somebody else's.
        pub external: bool,
        /// Labels.
        pub labels: Texts,
        /// For swarms.
        pub driver: String,
        /// For swarms.
        pub driver_opts: Texts,
        /// For swarms.
        pub template_driver: String,
    }
}

record! {
    /// A network.
    pub struct Network {
        /// Its name.
        pub name: String,
        /// Its driver.
        pub driver: String,
        /// Options.
        pub driver_opts: Texts,
        /// Addresses.
        pub ipam: Option<Ipam>,
        /// Somebody else's.
        pub external: bool,
        /// No way out.
        pub internal: bool,
        /// Containers may join by hand.
        pub attachable: bool,
        /// IPv4 addresses.
        pub enable_ipv4: Option<bool>,
        /// IPv6 addresses.
        pub enable_ipv6: Option<bool>,
        /// Labels.
        pub labels: Texts,
    }
}

record! {
    /// How a network gives addresses.
    pub struct Ipam {
        /// Who.
        pub driver: String,
        /// Pools.
        pub config: Vec<Pool>,
        /// Options.
        pub options: Texts,
    }
}

record! {
    /// A pool of addresses.
    pub struct Pool {
        /// All.
        pub subnet: String,
        /// Those that are given.
        pub ip_range: String,
        /// The gateway.
        pub gateway: String,
        /// Those that others have.
        pub aux_addresses: Texts,
    }
}

record! {
    /// A volume.
    pub struct Volume {
        /// Its name.
        pub name: String,
        /// Its driver.
        pub driver: String,
        /// Options.
        pub driver_opts: Texts,
        /// Somebody else's.
        pub external: bool,
        /// Labels.
        pub labels: Texts,
    }
}
