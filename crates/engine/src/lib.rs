//! Containers, exec, logs, events: the engine under the daemon's skins.
