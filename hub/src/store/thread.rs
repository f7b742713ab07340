//! The store's own thread: it commits one batch at a time, and says when it is done.

use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;

use super::{Batch, Committed, Store, StoreError};

/// A batch that the store is done with.
#[derive(Debug)]
pub struct Done {
    /// The batch.
    pub batch: Box<Batch>,
    /// What came of it.
    pub outcome: Result<Committed, StoreError>,
}

/// What the thread is to do.
enum Work {
    Commit(Box<Batch>),
    BackUp(PathBuf),
}

/// A store on a thread of its own. Dropping it waits for what was given to it.
pub struct StoreThread {
    work: Option<SyncSender<Work>>,
    done: Receiver<Done>,
    backed_up: Receiver<Result<u64, StoreError>>,
    thread: Option<JoinHandle<()>>,
    busy: bool,
}

impl StoreThread {
    /// Starts the thread. `wake` is called on it after each commit: it must make the event loop
    /// look at [`Self::take_done`], and must not wait.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(
        mut store: Box<dyn Store + Send>,
        wake: impl Fn() + Send + 'static,
    ) -> std::io::Result<Self> {
        // A batch, and a backup beside it.
        let (work, incoming) = sync_channel::<Work>(2);
        let (outgoing, done) = sync_channel(1);
        let (copied, backed_up) = sync_channel(1);
        let thread = std::thread::Builder::new().name("store".to_owned()).spawn(move || {
            step_back();
            let tell = |batch, outcome| {
                let heard = outgoing.send(Done { batch, outcome }).is_ok();
                wake();
                heard
            };
            while let Ok(work) = incoming.recv() {
                match work {
                    Work::Commit(batch) => {
                        let outcome = store.commit(&batch);
                        if !tell(batch, outcome) {
                            return;
                        }
                    }
                    Work::BackUp(file) => {
                        let outcome = store.back_up(&file, &mut |commit| {
                            match incoming.try_recv() {
                                Ok(Work::Commit(batch)) => {
                                    let outcome = commit(&batch);
                                    tell(batch, outcome)
                                }
                                // The core asks for one at a time.
                                Ok(Work::BackUp(_)) | Err(TryRecvError::Empty) => true,
                                Err(TryRecvError::Disconnected) => false,
                            }
                        });
                        if copied.send(outcome).is_err() {
                            return;
                        }
                        wake();
                    }
                }
            }
        })?;
        Ok(Self { work: Some(work), done, backed_up, thread: Some(thread), busy: false })
    }

    /// Whether a batch is with the store.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.busy
    }

    /// Gives it a batch. Only while it is not busy.
    pub fn commit(&mut self, batch: Box<Batch>) {
        debug_assert!(!self.busy, "one batch at a time");
        self.busy = true;
        self.give(Work::Commit(batch));
    }

    /// Has the store copied into a new file, while it goes on; see [`Self::take_backed_up`]. Only
    /// one copy at a time.
    pub fn back_up(&self, file: PathBuf) {
        self.give(Work::BackUp(file));
    }

    fn give(&self, work: Work) {
        if let Some(channel) = &self.work
            && channel.send(work).is_err()
        {
            log::error!("the store's thread has ended");
        }
    }

    /// What came of a copy, when it is done: its size.
    pub fn take_backed_up(&self) -> Option<Result<u64, StoreError>> {
        self.backed_up.try_recv().ok()
    }

    /// The batch that it is done with, if it is.
    ///
    /// # Panics
    /// When the thread has panicked: nothing can be made durable any more.
    pub fn take_done(&mut self) -> Option<Done> {
        match self.done.try_recv() {
            Ok(done) => {
                self.busy = false;
                Some(done)
            }
            Err(TryRecvError::Empty) => None,
            Err(TryRecvError::Disconnected) => panic!("the store's thread has ended"),
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            log::error!("the store's thread has panicked");
        }
    }
}

/// Lowers this thread's priority: on a single core a commit must not hold up a trigger. Not by
/// much: its share stays large enough where the machine is busy with other things.
#[expect(unsafe_code, reason = "setpriority(2) has no safe wrapper")]
fn step_back() {
    const NICE: i32 = 5;
    // SAFETY: plain system calls on our own thread id; on Linux the priority is the thread's.
    let failed = unsafe {
        let thread = libc::syscall(libc::SYS_gettid);
        libc::setpriority(libc::PRIO_PROCESS, libc::id_t::try_from(thread).unwrap_or(0), NICE)
    };
    if failed != 0 {
        log::debug!("the store's thread keeps its priority");
    }
}
