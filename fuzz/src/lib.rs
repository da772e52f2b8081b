//! What the fuzz targets check. The tests of the runtime include [`checks`] too, those of the image store [`images`], those
//! of the builder [`builds`], and run them on the seeds and on changes of them, so that every `cargo test` has a part of it.

pub mod builds;
pub mod checks;
pub mod images;
