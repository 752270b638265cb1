//! Reads answers of HTTP/1.1, without any I/O of its own: heads with a Content-Length, bodies counted and thrown away.

use anyhow::{Context as _, Result, bail};

/// What one read takes.
const PIECE: usize = 64 * 1024;
/// What is kept of a body, for error messages and probes.
const KEPT: usize = 256;
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// One answer after the other.
pub(super) struct Reader {
    buffer: Vec<u8>,
    /// Bytes of a head that is not complete.
    filled: usize,
    body: Option<Body>,
}

struct Body {
    status: u16,
    left: usize,
    kept: Vec<u8>,
}

/// A complete answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The beginning of its body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// An error unless the status is this one.
    pub(super) fn expect(&self, status: u16) -> Result<()> {
        if self.status != status {
            bail!(
                "status {} instead of {status}: {}",
                self.status,
                String::from_utf8_lossy(&self.body).trim()
            );
        }
        Ok(())
    }
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { buffer: vec![0; 4096], filled: 0, body: None }
    }

    /// Where the next bytes go.
    pub(super) fn space(&mut self) -> &mut [u8] {
        // Large buffers only for those who need them: thousands of connections are idle at a time.
        let left = self.body.as_ref().map_or(0, |body| body.left);
        if left > self.buffer.len() && self.buffer.len() < PIECE {
            self.buffer.resize(PIECE, 0);
        }
        &mut self.buffer[self.filled..]
    }

    /// So many bytes came; the answer, if they complete it.
    pub(super) fn advance(&mut self, bytes: usize) -> Result<Option<Answer>> {
        if bytes == 0 {
            bail!("the connection was closed before the answer was complete");
        }
        if let Some(body) = &mut self.body {
            body.take(&self.buffer[..bytes])?;
        } else {
            self.filled += bytes;
            let received = &self.buffer[..self.filled];
            let Some(end) = received.windows(END_OF_HEAD.len()).position(|window| window == END_OF_HEAD)
            else {
                if self.filled == self.buffer.len() {
                    bail!("the head of the answer is longer than {} bytes", self.filled);
                }
                return Ok(None);
            };
            let (head, rest) = received.split_at(end + END_OF_HEAD.len());
            let mut body = head_of(head)?;
            body.take(rest)?;
            self.filled = 0;
            self.body = Some(body);
        }
        let complete = self.body.take_if(|body| body.left == 0);
        Ok(complete.map(|body| Answer { status: body.status, body: body.kept }))
    }
}

impl Body {
    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.left = self.left.checked_sub(bytes.len()).context("more came than the answer's length")?;
        let room = KEPT.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }
}

fn head_of(head: &[u8]) -> Result<Body> {
    let text = std::str::from_utf8(head).context("a head that is not text")?;
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.with_context(|| format!("no status in {line:?}"))?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
    });
    let left = match length {
        Some(length) => length.context("Content-Length")?,
        None if status == 204 => 0,
        None => bail!("an answer without Content-Length: {text:?}"),
    };
    Ok(Body { status, left, kept: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::Reader;

    fn feed(reader: &mut Reader, bytes: &[u8]) -> anyhow::Result<Option<(u16, Vec<u8>)>> {
        reader.space()[..bytes.len()].copy_from_slice(bytes);
        Ok(reader.advance(bytes.len())?.map(|answer| (answer.status, answer.body)))
    }

    #[test]
    fn answers_are_read_however_they_are_cut() {
        let answer = b"HTTP/1.1 201 Created\r\ncontent-LENGTH: 5\r\n\r\nhello";
        for cut in 1..answer.len() {
            let mut reader = Reader::new();
            for _ in 0..2 {
                assert_eq!(feed(&mut reader, &answer[..cut]).unwrap(), None, "{cut}");
                assert_eq!(
                    feed(&mut reader, &answer[cut..]).unwrap(),
                    Some((201, b"hello".to_vec())),
                    "{cut}"
                );
            }
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        for wrong in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\ntoo long",
            "HTTP/1.1 200 OK\r\n\r\nno length",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "nonsense\r\n\r\n",
        ] {
            assert!(feed(&mut Reader::new(), wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Reader::new().advance(0).is_err(), "closed");
    }
}
