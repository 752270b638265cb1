//! A client under whose eyes Egret is restarted and upgraded: plain HTTP/1.1 requests without pause, on connections that are
//! kept and on new ones, each judged by its status. Run by tests, as a workload or outside, as `egret-external load`.

use std::{
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

/// Requests on one connection that is kept.
const KEPT: usize = 50;
/// Before the next request, so that two cores do something else as well.
const PAUSE: Duration = Duration::from_millis(5);
/// For every step of a request.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody ends a client whose test was killed.
const LONGEST: Duration = Duration::from_mins(3);

/// What to ask, and for how long.
#[derive(Clone, Debug)]
pub struct Load {
    /// The server.
    pub address: SocketAddr,
    /// The host to ask for.
    pub host: String,
    /// The path to ask for.
    pub path: String,
    /// Threads that keep their connections, and threads that do not.
    pub threads: (usize, usize),
    /// The file whose appearance ends it.
    pub until: PathBuf,
    /// Where the report goes: failures one a line, then `done REQUESTS`.
    pub report: PathBuf,
}

impl Load {
    /// Runs until the end, and writes the report as it goes.
    pub fn run(&self) -> io::Result<()> {
        let report = std::sync::Mutex::new(fs::File::create(&self.report)?);
        let (requests, started) = (AtomicU64::new(0), Instant::now());
        let ends = || self.until.exists() || started.elapsed() > LONGEST;
        let client = |per_connection: usize| {
            while !ends() {
                let mut done = 0;
                let mut connection = || {
                    let mut stream = self.connect()?;
                    // A connection that was made is used: whoever counts them counts requests.
                    while done < per_connection && (done == 0 || !ends()) {
                        self.request(&mut stream, done + 1 == per_connection)?;
                        done += 1;
                        requests.fetch_add(1, Relaxed);
                        thread::park_timeout(PAUSE);
                    }
                    Ok::<_, io::Error>(())
                };
                if let Err(error) = connection() {
                    let line = format!(
                        "failed after {done} of {per_connection}: {error} ({:?})\n",
                        started.elapsed()
                    );
                    let mut report = report.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let _ = report.write_all(line.as_bytes());
                    thread::park_timeout(PAUSE);
                }
            }
        };
        let client = &client;
        thread::scope(|scope| {
            for _ in 0..self.threads.0 {
                scope.spawn(move || client(KEPT));
            }
            for _ in 0..self.threads.1 {
                scope.spawn(move || client(1));
            }
        });
        let mut report = report.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        writeln!(report, "done {}", requests.into_inner())
    }

    fn connect(&self) -> io::Result<BufReader<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(BufReader::new(stream))
    }

    fn request(&self, stream: &mut BufReader<TcpStream>, last: bool) -> io::Result<()> {
        let connection = if last { "close" } else { "keep-alive" };
        let Self { host, path, .. } = self;
        let request = format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: {connection}\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if status.starts_with("HTTP/1.1 200 ") {
            Ok(())
        } else {
            Err(io::Error::other(format!("{:?}: {}", status.trim_end(), String::from_utf8_lossy(&body))))
        }
    }
}
