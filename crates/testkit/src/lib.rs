//! Fixtures and suites shared by tests.
