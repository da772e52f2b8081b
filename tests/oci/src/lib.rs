//! The OCI runtime specification (1.3, Linux), sentence by sentence, asked of any runtime's command line.
//!
//! The tests are in `tests/oci`: one file for a chapter of the specification, one test for a sentence that binds a
//! runtime. They use nothing of a runtime but runc's command line, so that they can be held against others:
//! `OCI_RUNTIME=/usr/sbin/runc cargo test -p sampan-oci-tests`. `make conformance-oci` asks ours, runc and crun, and
//! writes docs/conformance-oci.md.
