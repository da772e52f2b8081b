//! Images on disk: content store, references, layers, snapshots.
