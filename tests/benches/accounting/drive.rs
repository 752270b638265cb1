//! The workload: this program once more, enrolled. It is told what to do on standard input, one line at a time, so that no connection is
//! made while somebody else is measured:
//!
//! - `kept MILLISECONDS` or `new MILLISECONDS` prepares; the answer is `ready`,
//! - `go` makes the load; the answer is how many requests were answered with 200. Any other answer ends it with an error.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

/// Connections at the same time.
const KEPT: usize = 32;
const NEW: usize = 16;
/// For every step of a request.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// On connections that are kept.
    Kept,
    /// On a new connection each.
    New,
}

impl Load {
    pub(crate) const ALL: [Self; 2] = [Self::Kept, Self::New];

    /// The word for it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::New => "new",
        }
    }

    /// For people.
    pub(crate) fn title(self) -> String {
        match self {
            Self::Kept => format!("requests on {KEPT} connections that are kept"),
            Self::New => format!("requests with a connection each, {NEW} at a time"),
        }
    }

    fn threads(self) -> usize {
        match self {
            Self::Kept => KEPT,
            Self::New => NEW,
        }
    }
}

/// Does as it is told until nobody tells it anything.
pub(crate) fn run(server: SocketAddr) -> Result<()> {
    let mut kept: Vec<Option<Connection>> = (0..KEPT).map(|_| None).collect();
    let mut lines = io::stdin().lines();
    while let Some(line) = lines.next().transpose()? {
        let (name, time) = line.split_once(' ').context("no time was said")?;
        let load = Load::ALL.into_iter().find(|load| load.name() == name).context("no such load")?;
        let time = Duration::from_millis(time.parse()?);
        if load == Load::Kept {
            for connection in &mut kept {
                ask(server, connection)?;
            }
        }
        say("ready")?;
        ensure!(lines.next().transpose()?.as_deref() == Some("go"), "it was not told to go");
        let mut connections: Vec<Option<Connection>> = match load {
            Load::Kept => std::mem::take(&mut kept),
            Load::New => Vec::new(),
        };
        connections.resize_with(load.threads(), || None);
        let deadline = Instant::now() + time;
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                thread::spawn(move || {
                    let mut requests = 0_u64;
                    while Instant::now() < deadline {
                        match load {
                            Load::Kept => ask(server, &mut connection)?,
                            Load::New => Connection::open(server)?.request(true)?,
                        }
                        requests += 1;
                    }
                    Ok::<_, anyhow::Error>((requests, connection))
                })
            })
            .collect();
        let mut requests = 0;
        for thread in threads {
            let (made, connection) = thread.join().map_err(|_| anyhow!("a thread panicked"))??;
            requests += made;
            if load == Load::Kept {
                kept.push(connection);
            }
        }
        say(&requests.to_string())?;
    }
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// A request on a connection that is kept, or on a new one that is kept from now on.
fn ask(server: SocketAddr, connection: &mut Option<Connection>) -> Result<()> {
    // One that was idle too long is over.
    if let Some(open) = connection
        && open.request(false).is_ok()
    {
        return Ok(());
    }
    connection.insert(Connection::open(server)?).request(false)
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::new(stream)))
    }

    /// One request and its answer; with the last one the end of the connection, too, which is the server's to begin.
    fn request(&mut self, last: bool) -> Result<()> {
        let connection = if last { "close" } else { "keep-alive" };
        let request =
            format!("GET /status/200 HTTP/1.1\r\nhost: test.com\r\nconnection: {connection}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes())?;
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status)?;
        let mut line = String::new();
        loop {
            line.clear();
            ensure!(self.0.read_line(&mut line)? > 0, "the connection ended within an answer");
            let field = line.trim_end();
            if field.is_empty() {
                break;
            }
            if let Some((name, value)) = field.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body)?;
        if !status.starts_with("HTTP/1.1 200 ") {
            bail!("{:?}: {}", status.trim_end(), String::from_utf8_lossy(&body));
        }
        if last {
            ensure!(self.0.read(&mut [0])? == 0, "there was more than the answer");
        }
        Ok(())
    }
}
