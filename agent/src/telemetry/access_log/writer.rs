//! The thread that writes the access log, and the queue in front of it.
//!
//! Lines gather for a moment before the thread is woken: to wake it for each costs more than the line does.

use std::{
    io::{self, BufWriter, Write as _},
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{SyncSender, sync_channel},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::Entry;

/// Lines waiting for the writer; beyond that they are lost and counted.
const QUEUE: usize = 16 * 1024;

/// A line waits for so long at most for others to be written with. The thread that writes them may be on a worker's CPU: the more there
/// are, the longer requests wait for it.
const GATHER: Duration = Duration::from_millis(20);

/// So many are not made to wait.
const BATCH: usize = QUEUE / 4;

/// The log. Cheap to clone; the thread ends, with everything written, when the last clone is dropped.
#[derive(Clone)]
pub struct AccessLog {
    sender: Arc<Sender>,
}

/// The end of the queue that lines are put into; its drop is the end of the log.
struct Sender {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// The first line has come, or something that does not wait for more of them.
    something: Condvar,
    lost: AtomicU64,
}

/// Boxed: they are large, and the vector grows.
type Lines = Vec<Box<Entry>>;

#[derive(Default)]
struct Waiting {
    entries: Lines,
    /// Those who wait until everything before is written.
    flushes: Vec<SyncSender<()>>,
    ended: bool,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.is_urgent()
    }

    /// Does not wait for more lines.
    fn is_urgent(&self) -> bool {
        self.entries.len() >= BATCH || !self.flushes.is_empty() || self.ended
    }
}

impl AccessLog {
    /// A log that writes to `writer`, which is flushed after every batch of lines.
    pub fn to(writer: impl io::Write + Send + 'static) -> io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let sender = Arc::new(Sender { queue: Arc::clone(&queue) });
        std::thread::Builder::new().name("access-log".to_owned()).spawn(move || write_all(&queue, writer))?;
        Ok(Self { sender })
    }

    /// Queues a line; never waits.
    pub fn write(&self, entry: Box<Entry>) {
        let queue = &self.sender.queue;
        let mut waiting = queue.waiting.lock();
        if waiting.entries.len() >= QUEUE {
            drop(waiting);
            queue.lost.fetch_add(1, Relaxed);
            return;
        }
        waiting.entries.push(entry);
        if matches!(waiting.entries.len(), 1 | BATCH) {
            queue.something.notify_one();
        }
    }

    /// Lines lost so far, because the writer was too slow or failed.
    pub fn lost(&self) -> u64 {
        self.sender.queue.lost.load(Relaxed)
    }

    /// Blocks until everything queued before is written.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        self.sender.queue.wake(|waiting| waiting.flushes.push(done));
        // An error means that the writer thread ended, so there is nothing left to wait for.
        let _ = wait.recv();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.queue.wake(|waiting| waiting.ended = true);
    }
}

impl Queue {
    fn wake(&self, change: impl FnOnce(&mut Waiting)) {
        change(&mut self.waiting.lock());
        self.something.notify_one();
    }

    /// Everything that waits, once it has gathered. `spare` is where the next lines go.
    fn next(&self, spare: Lines) -> Waiting {
        let mut waiting = self.waiting.lock();
        self.something.wait_while(&mut waiting, |waiting| waiting.is_empty());
        // However it ends, what is there is written.
        let _ = self.something.wait_while_for(&mut waiting, |waiting| !waiting.is_urgent(), GATHER);
        let ended = waiting.ended;
        mem::replace(&mut *waiting, Waiting { entries: spare, flushes: Vec::new(), ended })
    }
}

fn write_all(queue: &Queue, writer: impl io::Write) {
    let mut writer = BufWriter::with_capacity(64 * 1024, writer);
    let (mut spare, mut reported) = (Vec::new(), 0);
    loop {
        let Waiting { mut entries, flushes, ended } = queue.next(spare);
        for entry in entries.drain(..) {
            let line = serde_json::to_writer(&mut writer, &entry).map_err(io::Error::from);
            if line.and_then(|()| writer.write_all(b"\n")).is_err() {
                queue.lost.fetch_add(1, Relaxed);
            }
        }
        if let Err(error) = writer.flush() {
            tracing::warn!(%error, "access log cannot be written");
        }
        let lost = queue.lost.load(Relaxed);
        if lost > reported {
            tracing::warn!(lines = lost - reported, "access log lines lost: its writer is too slow");
            reported = lost;
        }
        for done in flushes {
            // Whoever asked may have stopped waiting.
            let _ = done.send(());
        }
        if ended {
            break;
        }
        // What a burst needed is not kept.
        entries.shrink_to(BATCH);
        spare = entries;
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, mpsc},
    };

    use parking_lot::Mutex;

    use super::{AccessLog, Entry, QUEUE};
    use crate::flow::FlowId;

    fn entry(path: &str) -> Box<Entry> {
        let mut entry = Entry::new(
            jiff::Timestamp::now(),
            "cluster.local/ns/default/sa/sleep".into(),
            FlowId::random(),
            "203.0.113.7:80".parse().unwrap(),
            "10.0.0.1:40000".parse().unwrap(),
        );
        entry.path = Some(path.to_owned());
        Box::new(entry)
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn writes_one_escaped_line_per_entry() {
        let out = Shared::default();
        let log = AccessLog::to(out.clone()).unwrap();
        log.write(entry("/a\n{\"forged\":1}"));
        log.write(entry("/b"));
        log.flush();
        let text = String::from_utf8(out.0.lock().clone()).unwrap();
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["path"], "/a\n{\"forged\":1}");
        assert_eq!(lines[1]["principal"], "cluster.local/ns/default/sa/sleep");
        assert_eq!(lines[1]["x_forwarded_for"], serde_json::Value::Null);
    }

    /// A writer that blocks until the test lets go.
    struct Blocked(mpsc::Receiver<()>);

    impl io::Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn loses_lines_instead_of_waiting_and_counts_them() {
        let (release, blocked) = mpsc::channel();
        let log = AccessLog::to(Blocked(blocked)).unwrap();
        for _ in 0..3 * QUEUE {
            log.write(entry("/"));
        }
        assert!(log.lost() > 0);
        drop(release);
    }
}
