//! Transfers of random sizes over plain TCP, counted by who sends and by who receives: what flow records are compared with.
//!
//! A connection carries the length of the answer that is wanted (8 bytes, big-endian), then any number of bytes, and is half-closed; then
//! comes the answer. Both ends report a line per connection: bytes from the client, bytes to the client.

use std::{
    collections::hash_map::RandomState,
    fs::File,
    hash::{BuildHasher as _, Hasher as _},
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
};

/// Sizes are spread over their orders of magnitude: nothing, a byte, and up to half a mebibyte.
const MAX_BITS: u64 = 19;

/// Connections at the same time.
const THREADS: usize = 8;

/// Answers until it is killed.
pub fn serve(listen: SocketAddr, report: &Path) -> io::Result<()> {
    let listener = TcpListener::bind(listen)?;
    let report = Arc::new(Mutex::new(File::create(report)?));
    writeln!(io::stderr(), "ready")?;
    for stream in listener.incoming() {
        let (stream, report) = (stream?, Arc::clone(&report));
        thread::spawn(move || answer(stream, &report));
    }
    Ok(())
}

fn answer(mut stream: TcpStream, report: &Mutex<File>) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let received = 8 + read_to_end(&mut stream)?;
    let sent = write(&mut stream, u64::from_be_bytes(wanted))?;
    // Before the end that the client waits for: whoever sees it ended finds the line.
    note(report, received, sent)?;
    stream.shutdown(Shutdown::Write)
}

/// Makes so many transfers; an error is the first one that failed.
pub fn run(address: SocketAddr, count: usize, report: &Path) -> io::Result<()> {
    let report = Mutex::new(File::create(report)?);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        let work = || {
            while next.fetch_add(1, Relaxed) < count {
                transfer(address, &report)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
        })
    })
}

fn transfer(address: SocketAddr, report: &Mutex<File>) -> io::Result<()> {
    let (question, answer) = (random_size(), random_size());
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(&answer.to_be_bytes())?;
    let sent = 8 + write(&mut stream, question)?;
    stream.shutdown(Shutdown::Write)?;
    let received = read_to_end(&mut stream)?;
    if received != answer {
        return Err(io::Error::other(format!("{received} bytes came of {answer}")));
    }
    note(report, sent, received)
}

fn note(report: &Mutex<File>, from_client: u64, to_client: u64) -> io::Result<()> {
    let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
    report.write_all(format!("{from_client} {to_client}\n").as_bytes())
}

fn write(stream: &mut TcpStream, bytes: u64) -> io::Result<u64> {
    io::copy(&mut io::repeat(b'x').take(bytes), stream)
}

fn read_to_end(stream: &mut TcpStream) -> io::Result<u64> {
    io::copy(stream, &mut io::sink())
}

/// The keys of the standard library's hash maps are random.
fn random_size() -> u64 {
    let random = RandomState::new().build_hasher().finish();
    let bits = random % (MAX_BITS + 1);
    (random >> 8) & ((1 << bits) - 1)
}
