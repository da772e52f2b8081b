//! sampand: Docker's HTTP API over the engine.
