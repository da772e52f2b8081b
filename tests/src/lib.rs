//! End-to-end tests through the real executables and real clients: all of it is in `tests/it`.
