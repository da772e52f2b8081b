//! Every limit on what a registry may send or make us wait, with its reason.

use std::time::Duration;

/// The longest manifest or index. The distribution spec asks registries to take 4 MiB; nobody makes longer ones.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;
/// The longest image configuration; the largest known ones have some hundred KiB of history.
pub const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// The longest answer of a token server. A token must fit into a request's header, so this is plenty.
pub const MAX_TOKEN_ANSWER_BYTES: u64 = 1 << 20;
/// How much of an error's text is read.
pub const MAX_ERROR_BYTES: u64 = 64 << 10;
/// How much of an error's text is shown.
pub const MAX_SHOWN_ERROR_CHARS: usize = 500;
/// The longest page of a listing of tags.
pub const MAX_TAGS_PAGE_BYTES: u64 = 4 << 20;
/// How many pages a listing may have: more is a registry that leads us in a circle.
pub const MAX_PAGES: usize = 1000;
/// How many tags are asked for at once.
pub const TAGS_PER_PAGE: usize = 1000;
/// How many redirects one request may meet (curl takes 50, Go's client 10).
pub const MAX_REDIRECTS: usize = 10;
/// The longest headers of an answer.
pub const MAX_HEADER_BYTES: usize = 64 << 10;
/// How often a request is tried.
pub const MAX_ATTEMPTS: u32 = 5;
/// How often one blob's transfer may be cut and taken up again with progress in between.
pub const MAX_RECONNECTS: u32 = 100;
/// The first wait before trying again; it doubles each time.
pub const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// The longest wait before trying again, if the registry asks for none.
pub const MAX_BACKOFF: Duration = Duration::from_secs(20);
/// The longest wait that a registry may ask for; beyond it the request fails and says so.
pub const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);
/// How long finding a host's address may take.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a connection may take to be made, TLS included.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// How long an answer may take to begin. Registries check a whole layer before they answer its last request.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a connection may be silent in the middle of a body.
pub const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// A token's life if its server names none (as the distribution spec has it).
pub const DEFAULT_TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is renewed so long before it ends.
pub const TOKEN_MARGIN: Duration = Duration::from_secs(10);
/// A piece of a chunked upload, used where a registry refuses a layer in one piece.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// The longest piece that a registry may ask for as its least one.
pub const MAX_CHUNK_BYTES: u64 = 1 << 30;
/// The longest Docker config.json.
pub const MAX_DOCKER_CONFIG_BYTES: u64 = 4 << 20;
/// The longest answer of a credential helper.
pub const MAX_HELPER_BYTES: u64 = 1 << 20;
/// The longest certificate or key file.
pub const MAX_PEM_BYTES: u64 = 4 << 20;
/// How many hosts' schemes are remembered.
pub const MAX_KNOWN_HOSTS: usize = 1000;
