//! End-to-end tests through the real executables and real clients.
