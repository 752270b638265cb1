//! Reads a chunked body (RFC 9112 §7.1), and refuses every lenient spelling.

use bytes::{Buf as _, BytesMut};

use super::{Piece, answer::fields};

/// Chunk extensions and trailers, per body. Nobody needs them; floods of them are an attack.
const MAX_EXTRA: usize = 16 * 1024;

/// Position within a chunked body.
#[derive(Debug)]
pub(super) struct Chunked {
    state: State,
    /// Blanks may follow the size of a chunk, as old servers write it.
    padded: bool,
    extra: usize,
    /// The trailer section, lines with their ends.
    trailers: Vec<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Padding(u64),
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Over,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

impl Chunked {
    /// A workload's: by the letter.
    pub(super) fn strict() -> Self {
        Self { state: State::default(), padded: false, extra: 0, trailers: Vec::new() }
    }

    /// A server's. What is lenient here is gone when it is sent on.
    pub(super) fn padded() -> Self {
        Self { padded: true, ..Self::strict() }
    }

    /// The body has ended.
    pub(super) fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes the next piece out of `input`. None: it is over, or more must be read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, &'static str> {
        let mut at = 0;
        while at < input.len() {
            if let State::Data(left) = self.state {
                input.advance(at);
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - length as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                return Ok(Some(Piece::Data(input.split_to(length).freeze())));
            }
            let byte = input[at];
            at += 1;
            self.state = match (self.state, byte) {
                (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                    if digits == 15 {
                        return Err("a chunk size has more than 15 digits");
                    }
                    let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                    State::Size { value: value << 4 | digit, digits: digits + 1 }
                }
                (State::Size { digits: 0, .. }, _) => return Err("a chunk has no size"),
                (State::Size { value, .. } | State::Padding(value), b'\t' | b' ') if self.padded => {
                    self.count()?;
                    State::Padding(value)
                }
                (State::Size { value, .. } | State::Padding(value), b';') => State::Extension(value),
                (State::Size { value, .. } | State::Padding(value) | State::Extension(value), b'\r') => {
                    State::SizeLf(value)
                }
                (State::Extension(value), b'\t' | b' '..=b'~' | 0x80..) => {
                    self.count()?;
                    State::Extension(value)
                }
                (State::SizeLf(0), b'\n') => State::TrailerStart,
                (State::SizeLf(size), b'\n') => State::Data(size),
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::default(),
                (State::TrailerStart, b'\r') => State::EndLf,
                (State::EndLf, b'\n') => {
                    self.state = State::Over;
                    input.advance(at);
                    return self.trailers();
                }
                (State::TrailerStart, b'!'..=b'~') | (State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                    self.count()?;
                    self.trailers.push(byte);
                    State::Trailer
                }
                (State::Trailer, b'\r') => State::TrailerLf,
                (State::TrailerLf, b'\n') => {
                    self.trailers.extend_from_slice(b"\r\n");
                    State::TrailerStart
                }
                _ => return Err("the chunked body is malformed"),
            };
        }
        input.advance(at);
        Ok(None)
    }

    fn trailers(&mut self) -> Result<Option<Piece>, &'static str> {
        if self.trailers.is_empty() {
            return Ok(None);
        }
        self.trailers.extend_from_slice(b"\r\n");
        let map = fields(&self.trailers).ok_or("a trailer of the chunked body is malformed")?;
        Ok(Some(Piece::Trailers(map)))
    }

    fn count(&mut self) -> Result<(), &'static str> {
        self.extra += 1;
        if self.extra > MAX_EXTRA {
            return Err("the extensions and trailers of the chunked body are larger than 16 KiB");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use bytes::BytesMut;

    use super::{Chunked, Piece};

    /// What a body says, trailers in the end; whether it is over, and what follows it.
    type Read = Result<(String, bool, String), &'static str>;

    fn pieces(chunked: &mut Chunked, input: &mut BytesMut, text: &mut String) -> Result<(), &'static str> {
        while let Some(piece) = chunked.next(input)? {
            match piece {
                Piece::Data(data) => text.push_str(std::str::from_utf8(&data).unwrap()),
                Piece::Trailers(map) => {
                    for (name, value) in &map {
                        write!(text, "|{name}={}", value.to_str().unwrap()).unwrap();
                    }
                }
            }
        }
        Ok(())
    }

    fn read_by(make: fn() -> Chunked, body: &str) -> Read {
        let whole = {
            let (mut chunked, mut input, mut text) = (make(), BytesMut::from(body), String::new());
            pieces(&mut chunked, &mut input, &mut text)
                .map(|()| (text, chunked.is_over(), String::from_utf8(input.to_vec()).unwrap()))
        };
        // In single bytes the outcome must be the same.
        let (mut chunked, mut input, mut text) = (make(), BytesMut::new(), String::new());
        let mut bytes = body.bytes();
        let single = loop {
            if chunked.is_over() {
                break Ok((text, true, String::from_utf8(bytes.collect()).unwrap()));
            }
            let Some(byte) = bytes.next() else { break Ok((text, false, String::new())) };
            input.extend_from_slice(&[byte]);
            if let Err(e) = pieces(&mut chunked, &mut input, &mut text) {
                break Err(e);
            }
        };
        assert_eq!(whole, single, "{body:?}");
        whole
    }

    fn read(body: &str) -> Read {
        read_by(Chunked::strict, body)
    }

    #[test]
    fn reads_a_body_to_its_end_and_no_further() {
        let read_all = |text: &str, rest: &str| Ok((text.to_owned(), true, rest.to_owned()));
        assert_eq!(read("5\r\nhello\r\n0\r\n\r\nGET /"), read_all("hello", "GET /"));
        assert_eq!(read("5;a=b\r\nhello\r\n3\r\n...\r\n00\r\nX: y\r\n\r\n"), read_all("hello...|x=y", ""));
        assert_eq!(read("5\r\nhel"), Ok(("hel".to_owned(), false, String::new())));
    }

    #[test]
    fn blanks_after_a_size_are_a_servers_only() {
        let body = "5 \t\r\nhello\r\n0  \r\n\r\n";
        assert!(read(body).is_err());
        assert_eq!(read_by(Chunked::padded, body), Ok(("hello".to_owned(), true, String::new())));
    }

    #[test]
    fn refuses_lenient_spellings() {
        for body in [
            "\r\n",
            "5\nhello",
            "0x5\r\n",
            "+5\r\n",
            "5_0\r\n",
            " 5\r\n",
            "5 \r\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5;a\nb",
            "0000000000000005\r\n",
            "5\rhello",
            "0\r\nX: y\n\r\n",
            "0\r\n folded\r\n",
            "0\r\n\rX",
        ] {
            assert!(read(body).is_err(), "{body:?}");
        }
        let long = format!("5;{}\r\n", "a".repeat(17 * 1024));
        assert!(read(&long).is_err());
    }
}
