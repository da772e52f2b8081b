//! What the store accepts at most. Each limit has a unit and a reason; hitting one is an error that names it.

/// Bytes of a path in an archive: the kernel's own limit for a path.
pub const MAX_PATH_BYTES: usize = 4096;
/// Names in a path: far above real trees; each level costs a lookup for every entry below it.
pub const MAX_PATH_DEPTH: usize = 512;
/// Bytes of a PAX header or a GNU long name: they are held in memory. Go's reader has the same limit.
pub const MAX_EXTENDED_HEADER_BYTES: u64 = 1024 * 1024;
/// Extended attributes of one entry; a real file has a handful.
pub const MAX_XATTRS: usize = 1000;
/// Pieces of one sparse file: the map is held in memory, 16 bytes a piece.
pub const MAX_SPARSE_PIECES: usize = 1024 * 1024;
/// Entries of a layer: bounds the memory for directory times and the inodes that one image can take.
pub const MAX_LAYER_ENTRIES: u64 = 4_000_000;
/// Bytes that a layer's files may have together, holes not counted: a decompression bomb ends here, not at the
/// end of the disk.
pub const MAX_LAYER_BYTES: u64 = 256 * 1024 * 1024 * 1024;
/// Bytes of a layer that need no justification: below this, any ratio of compression is fine.
pub const MAX_UNQUESTIONED_BYTES: u64 = 4 * 1024 * 1024 * 1024;
/// What one packed byte may become beyond [`MAX_UNQUESTIONED_BYTES`]. gzip can't do more than 1032; zstd can, and only
/// for files that are as good as empty, which belong into an image as holes.
pub const MAX_RATIO: u64 = 1032;
/// The binary logarithm of zstd's window: a stream may ask for as much memory as it likes; 128 MiB is what
/// `zstd --long` makes and every reader takes.
pub const MAX_ZSTD_WINDOW_LOG: u32 = 27;
/// Bytes of memory for unpacking xz: `xz -9` needs 65 MiB.
pub const MAX_XZ_MEMORY_BYTES: u64 = 80 * 1024 * 1024;
/// Layers of an image that are unpacked at once: a slow one must not hold up the others, and each has two threads and
/// 2 MiB of buffers.
pub const MAX_LAYERS_AT_ONCE: usize = 4;
/// Bytes of a manifest, an index or an image configuration: they are held in memory. Registries allow 4 MiB.
pub const MAX_JSON_BYTES: u64 = 4 * 1024 * 1024;
/// Layers of an image: overlayfs stops at 500 lower directories, and one is the init layer.
pub const MAX_LAYERS: usize = 499;
/// Records in the build cache; the least recently used go first. One is about 1 KiB, and holds on to a layer.
pub const MAX_CACHE_RECORDS: usize = 10_000;
