//! What the fuzz targets check. The runtime's tests include [`checks`] too, and run it on the seeds and on changes of
//! them, so that every `cargo test` has a part of it.

pub mod checks;
