//! Protobuf messages of the shim's task service, and ttrpc frames. Types only, no I/O.
