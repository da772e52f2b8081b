//! Several layers of an image at once, each on top of the one before.
//!
//! ```text
//!   layer 0 ── comes, is unpacked ──┐ finished, named
//!   layer 1 ── comes, is unpacked ──┼─────────────────┐ finished, named
//!   layer 2 ────── comes ──── a hard link to a file below: waits ── goes on ─┐ finished, named
//! ```
//!
//! Layers begin in order, the base first, at most [`MAX_LAYERS_AT_ONCE`] at once, and none waits for the one below but for
//! what it can't do without it. They are finished and named by their chain ids strictly in order. So whatever a
//! layer waits for has begun, and waits for less: there is no circle.

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use sampan_base::{ChainId, DiffId, Digest, FileError};

use crate::content::Ingest;
use crate::layer::apply::{ApplyError, EntryError, Lower};
use crate::limits::MAX_LAYERS_AT_ONCE;
use crate::metadata::{ChainRecord, DiffRecord};
use crate::store::{Layer, Lease, NewDirectory, Store};
use crate::stream::{self, Streamed};
use crate::unpack::{UnpackError, check};

/// Where a layer's bytes are.
pub(crate) enum Origin<'a> {
    /// In the content store.
    Here,
    /// In a blob that has no name yet.
    Spooled(Ingest<'a>),
    /// Elsewhere; see [`Fetch`].
    Elsewhere(&'a dyn Fetch),
}

/// One layer's bytes from elsewhere.
pub(crate) trait Fetch: Sync {
    /// The digest and the size that it must have.
    fn expected(&self) -> (&Digest, u64);
    /// Opens it.
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
    /// So much has come.
    fn received(&self, bytes: u64);
    /// All has come.
    fn unpacking(&self);
    /// It was here already, or is now.
    fn done(&self, existed: bool);
}

/// Why a layer of a stack can't be had.
pub(crate) enum LayerError {
    Fetch(io::Error),
    Size { expected: u64, found: u64 },
    Unpack(UnpackError),
}

impl<E: Into<UnpackError>> From<E> for LayerError {
    fn from(error: E) -> Self {
        LayerError::Unpack(error.into())
    }
}

/// A layer that is wanted.
pub(crate) struct Wanted<'a> {
    pub(crate) diff_id: DiffId,
    pub(crate) origin: Origin<'a>,
}

impl Store {
    /// Takes in the layers that are not here yet, on top of each other, and unpacks them if `unpack`. `lease` holds them.
    ///
    /// # Errors
    /// The first layer, counted from 0, that can't be had. Those that are whole stay until garbage is collected.
    pub(crate) fn take_in(
        &self,
        wanted: Vec<Wanted<'_>>,
        unpack: bool,
        lease: &Lease,
    ) -> Result<Vec<Layer>, (usize, LayerError)> {
        let mut known_layers = Vec::new();
        let mut jobs: Vec<Job<'_>> = Vec::new();
        let mut parent: Option<ChainId> = None;
        for (index, layer) in wanted.into_iter().enumerate() {
            let at = |e: UnpackError| (index, e.into());
            let chain = ChainId::extend(parent.as_ref(), &layer.diff_id);
            let twin = jobs.iter().find(|j| j.diff_id == layer.diff_id).map(|j| j.index);
            let known = match self.known_layer(&layer.diff_id, parent.as_ref(), lease) {
                Ok(known) => Some(known),
                Err(UnpackError::MissingBlob { .. })
                    if twin.is_some() || !matches!(layer.origin, Origin::Here) =>
                {
                    None
                }
                Err(error) => return Err(at(error)),
            };
            if let (Some(_), Origin::Elsewhere(fetch)) = (&known, &layer.origin) {
                fetch.done(true);
            }
            let record = self.metadata().chain(&chain).map_err(|e| at(e.into()))?;
            let directory = record.and_then(|r| r.directory).map(|n| self.directory_path(n).join("fs"));
            match known {
                Some(layer) if directory.is_some() || !unpack => {
                    known_layers.push(Some(Finished { layer, directory }));
                }
                known => {
                    let fresh = known.is_none();
                    let origin = if known.is_some() { Origin::Here } else { layer.origin };
                    jobs.push(Job {
                        index,
                        twin: twin.filter(|_| fresh),
                        diff_id: layer.diff_id,
                        parent: parent.take(),
                        origin: Mutex::new(Some(origin)),
                    });
                    known_layers.push(None);
                }
            }
            parent = Some(chain);
        }
        let state = State { layers: known_layers, ..State::default() };
        let gate = Gate { state: Mutex::new(state), changed: Condvar::new() };
        if !jobs.is_empty() {
            self.work(&jobs, &gate, unpack, lease);
        }
        let state = gate.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        match state.failed {
            Some(failed) => Err(failed),
            // Without a failure all were finished.
            None => Ok(state.layers.into_iter().flatten().map(|l| l.layer).collect()),
        }
    }

    fn work(&self, jobs: &[Job<'_>], gate: &Gate, unpack: bool, lease: &Lease) {
        let lowers: Vec<Below<'_>> = jobs.iter().map(|j| Below { gate, index: j.index }).collect();
        let line = Mutex::new(Line { came: jobs.iter().map(|_| None).collect(), next: 0, busy: false });
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..jobs.len().min(MAX_LAYERS_AT_ONCE) {
                scope.spawn(|| {
                    // A panic must not leave the others waiting for what never comes.
                    let _abandons = Abandons(gate);
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(job) = jobs.get(number).filter(|_| !gate.failed()) else { return };
                        match self.run(job, &lowers[number], unpack) {
                            Ok(came) => self.finish_in_order(number, came, jobs, &line, gate, lease),
                            Err(error) => gate.fail(job.index, error),
                        }
                    }
                });
            }
        });
    }

    /// Brings one layer to its files, as far as it comes without those below.
    fn run<'a, 'o: 'a>(
        &'a self,
        job: &Job<'o>,
        lower: &'a Below<'a>,
        unpack: bool,
    ) -> Result<Came<'a>, LayerError> {
        let mut origin = lock(&job.origin).take().unwrap_or(Origin::Here);
        let fetch = match &origin {
            Origin::Elsewhere(fetch) => Some(*fetch),
            _ => None,
        };
        if let Some(twin) = job.twin {
            drop(lower.gate.wait_until(twin + 1).map_err(|source| ApplyError::Entry {
                path: String::new(),
                source: EntryError::Below { source },
            })?);
            origin = Origin::Here;
        }
        let directory = if unpack { Some(self.new_layer_directory()?) } else { None };
        let path = directory.as_ref().map(|d| d.path().join("fs"));
        let target = path.as_deref().map(|path| (path, lower as &dyn Lower));
        let (streamed, ingest) = match origin {
            Origin::Here => {
                let missing = || UnpackError::MissingBlob { diff_id: job.diff_id.clone() };
                let diff = self.metadata().diff(&job.diff_id)?.ok_or_else(missing)?;
                (stream::stream(&mut self.content().open_blob(&diff.blob)?, None, target)?, None)
            }
            Origin::Spooled(ingest) => {
                let file = std::fs::File::open(ingest.path());
                let mut file = file.map_err(FileError::on("open", ingest.path()))?;
                (stream::stream(&mut file, None, target)?, Some(ingest))
            }
            Origin::Elsewhere(fetch) => {
                let mut ingest = self.content().ingest()?;
                (fetched(fetch, &mut ingest, target, lower.gate)?, Some(ingest))
            }
        };
        let computed = match (&streamed.diff_id, &ingest) {
            (Some(diff_id), _) => diff_id.clone(),
            (None, Some(ingest)) => ingest.digest(),
            // A bare blob in the store is the layer itself: its digest was checked when it came.
            (None, None) => job.diff_id.0.clone(),
        };
        check(Some(&job.diff_id.0), &computed)?;
        Ok(Came { streamed, ingest, directory, fetch })
    }

    /// Finishes all layers that are next in line; if another thread is at it, that one goes on to this layer.
    fn finish_in_order<'a>(
        &self,
        number: usize,
        came: Came<'a>,
        jobs: &[Job<'_>],
        line: &Mutex<Line<'a>>,
        gate: &Gate,
        lease: &Lease,
    ) {
        let mut held = lock(line);
        held.came[number] = Some(came);
        if held.busy {
            return;
        }
        held.busy = true;
        loop {
            let next = held.next;
            let Some(came) = held.came.get_mut(next).and_then(Option::take).filter(|_| !gate.failed()) else {
                held.busy = false;
                return;
            };
            held.next += 1;
            drop(held);
            match self.finish(&jobs[next], came, lease) {
                Ok(finished) => gate.finished(jobs[next].index, finished),
                Err(error) => gate.fail(jobs[next].index, error),
            }
            held = lock(line);
        }
    }

    fn finish(&self, job: &Job<'_>, came: Came<'_>, lease: &Lease) -> Result<Finished, LayerError> {
        let parent = job.parent.as_ref();
        let applied = came.streamed.files.finish()?;
        let layer = match came.ingest {
            None => self.known_layer(&job.diff_id, parent, lease)?,
            Some(ingest) => {
                let diff = DiffRecord {
                    blob: ingest.digest(),
                    blob_size: ingest.size(),
                    media_type: came.streamed.compression.layer_media_type().to_owned(),
                    size: applied.bytes,
                };
                self.adopt_blob(ingest, job.diff_id.clone(), diff, parent, lease)
                    .map_err(UnpackError::from)?
            }
        };
        let number = came.directory.as_ref().map(NewDirectory::number);
        let record = ChainRecord { diff_id: job.diff_id.clone(), parent: parent.cloned(), directory: number };
        let directory = if self.adopt_chain(&layer.chain_id, record, lease)? {
            came.directory.map(NewDirectory::keep);
            number
        } else {
            // Another thread was faster.
            self.metadata().chain(&layer.chain_id)?.and_then(|r| r.directory)
        };
        if let Some(fetch) = came.fetch {
            fetch.done(false);
        }
        Ok(Finished { layer, directory: directory.map(|n| self.directory_path(n).join("fs")) })
    }
}

/// A layer that is still to be unpacked.
struct Job<'a> {
    /// Which layer of the stack.
    index: usize,
    diff_id: DiffId,
    parent: Option<ChainId>,
    origin: Mutex<Option<Origin<'a>>>,
    /// The same layer further down, that is still to come, too.
    twin: Option<usize>,
}

/// A layer whose bytes have all come and are what they should be.
struct Came<'a> {
    streamed: Streamed<'a>,
    ingest: Option<Ingest<'a>>,
    directory: Option<NewDirectory>,
    fetch: Option<&'a dyn Fetch>,
}

/// A layer that has its name, and its directory if it is unpacked.
struct Finished {
    layer: Layer,
    directory: Option<PathBuf>,
}

/// Layers that came, in the order in which they are to be finished.
struct Line<'a> {
    came: Vec<Option<Came<'a>>>,
    next: usize,
    /// A thread is finishing.
    busy: bool,
}

/// Which layers are finished; who needs one waits here.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    layers: Vec<Option<Finished>>,
    failed: Option<(usize, LayerError)>,
    /// A thread has panicked: nobody comes any more.
    abandoned: bool,
}

impl Gate {
    fn failed(&self) -> bool {
        let state = lock(&self.state);
        state.abandoned || state.failed.is_some()
    }

    /// The first failure counts; others follow from it.
    fn fail(&self, index: usize, error: LayerError) {
        lock(&self.state).failed.get_or_insert((index, error));
        self.changed.notify_all();
    }

    fn finished(&self, index: usize, finished: Finished) {
        lock(&self.state).layers[index] = Some(finished);
        self.changed.notify_all();
    }

    /// Until the first `count` layers are finished.
    fn wait_until(&self, count: usize) -> io::Result<MutexGuard<'_, State>> {
        let mut state = lock(&self.state);
        loop {
            if state.abandoned || state.failed.is_some() {
                return Err(io::Error::other("unpacking it failed"));
            }
            if state.layers[..count].iter().all(Option::is_some) {
                return Ok(state);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// What lies below one layer of the stack.
struct Below<'a> {
    gate: &'a Gate,
    index: usize,
}

impl Lower for Below<'_> {
    fn is_empty(&self) -> bool {
        self.index == 0
    }

    fn directories(&self) -> io::Result<Vec<PathBuf>> {
        let state = self.gate.wait_until(self.index)?;
        let directories = state.layers[..self.index].iter().rev();
        Ok(directories.filter_map(|l| l.as_ref()?.directory.clone()).collect())
    }
}

struct Abandons<'a>(&'a Gate);

impl Drop for Abandons<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(&self.0.state).abandoned = true;
            self.0.changed.notify_all();
        }
    }
}

/// Counters and options stay right when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads a layer from elsewhere: just so many bytes, of that digest.
fn fetched<'a>(
    fetch: &dyn Fetch,
    ingest: &mut Ingest<'_>,
    target: Option<(&Path, &'a dyn Lower)>,
    gate: &Gate,
) -> Result<Streamed<'a>, LayerError> {
    let (digest, size) = fetch.expected();
    let input = fetch.open().map_err(LayerError::Fetch)?;
    let mut incoming = Incoming { input, fetch, size, bytes: 0, told: 0, ended: false, failed: false, gate };
    let streamed = stream::stream(&mut incoming, Some(ingest), target);
    let Incoming { bytes, ended, failed, .. } = incoming;
    match streamed {
        Err(UnpackError::Read { source }) if failed => Err(LayerError::Fetch(source)),
        // A wrong length comes before what follows from it.
        _ if bytes > size || (ended && bytes < size) => {
            Err(LayerError::Size { expected: size, found: bytes })
        }
        other => {
            let streamed = other?;
            check(Some(digest), &ingest.digest())?;
            Ok(streamed)
        }
    }
}

/// A blob on its way: no longer than it should be, counted, and given up when another layer fails.
struct Incoming<'a> {
    input: Box<dyn Read + Send>,
    fetch: &'a dyn Fetch,
    size: u64,
    bytes: u64,
    told: u64,
    ended: bool,
    /// The source failed, not what was read.
    failed: bool,
    gate: &'a Gate,
}

/// Bytes between two notes of progress: often enough to see, seldom enough not to matter.
const TELL_BYTES: u64 = 256 * 1024;

impl Read for Incoming<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.gate.failed() {
            return Err(io::Error::other("another layer failed"));
        }
        let n = match self.input.read(buffer) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Err(e),
            other => other.inspect_err(|_| self.failed = true)?,
        };
        self.bytes += n as u64;
        if self.bytes > self.size {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more bytes came than were announced"));
        }
        if n == 0 {
            self.ended = true;
            self.fetch.unpacking();
        } else if self.told == 0 || self.bytes - self.told >= TELL_BYTES {
            self.told = self.bytes;
            self.fetch.received(self.bytes);
        }
        Ok(n)
    }
}
