//! How to find out whether a container is well.

use sampan_oci::image::Healthcheck;
use serde::{Deserialize, Serialize};

/// How to find out whether a container is well. Times are in nanoseconds, 0 where they were not given.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Default)]
#[serde(default)]
pub struct HealthSpec {
    /// `["CMD", …]`, `["CMD-SHELL", command]` or `["NONE"]`; empty: the image's.
    pub test: Vec<String>,
    /// From the end of one probe to the next; 30 s.
    pub interval: i64,
    /// What one probe may take; 30 s.
    pub timeout: i64,
    /// After the start failures do not count for so long; 0 s.
    pub start_period: i64,
    /// As `interval`, in the start period; 5 s.
    pub start_interval: i64,
    /// So many failures in a row make it unhealthy; 3.
    pub retries: i64,
}

impl From<&Healthcheck> for HealthSpec {
    fn from(of_image: &Healthcheck) -> HealthSpec {
        HealthSpec {
            test: of_image.test.clone(),
            interval: of_image.interval,
            timeout: of_image.timeout,
            start_period: of_image.start_period,
            start_interval: of_image.start_interval,
            retries: of_image.retries,
        }
    }
}

impl From<&HealthSpec> for Healthcheck {
    fn from(spec: &HealthSpec) -> Healthcheck {
        Healthcheck {
            test: spec.test.clone(),
            interval: spec.interval,
            timeout: spec.timeout,
            start_period: spec.start_period,
            start_interval: spec.start_interval,
            retries: spec.retries,
        }
    }
}
