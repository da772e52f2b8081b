//! A corpus of Dockerfiles, built by us and by others: file trees, configurations and histories side by side.
//!
//! * `corpus/*.txt`: the cases, many in a file, one story a file. Its little language is described in
//!   `tests/build/corpus.rs`.
//! * `expected/*.txt`: what each gives. `make conformance-build` asks Docker (BuildKit and the classic builder) and
//!   buildah, records what they agree on, and writes docs/conformance-build.md. What no peer knows yet has its result in
//!   the corpus, from the documentation.
//! * `cargo test -p sampan-build-tests`: our side of every case against what is recorded. Needs no peer.
