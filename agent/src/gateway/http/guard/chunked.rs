//! Follows a chunked body (RFC 9112 §7.1) without changing it, and refuses every lenient spelling.

/// Chunk extensions and trailers, per body. Nobody needs them; floods of them are an attack.
const MAX_EXTRA: usize = 16 * 1024;

/// Position within a chunked body.
#[derive(Debug, Default)]
pub(super) struct Chunked {
    state: State,
    extra: usize,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Size { value: u64, digits: u8 },
    Extension(u64),
    SizeLf(u64),
    Data(u64),
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
}

impl Default for State {
    fn default() -> Self {
        Self::Size { value: 0, digits: 0 }
    }
}

impl Chunked {
    /// Follows `input`: how many of its bytes belong to the body, and whether the body ended with them.
    pub(super) fn scan(&mut self, input: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut at = 0;
        while at < input.len() {
            if let State::Data(left) = self.state {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(input.len() - at);
                at += length;
                let left = left - length as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                continue;
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
                (State::Size { value, .. }, b';') => State::Extension(value),
                (State::Size { value, .. } | State::Extension(value), b'\r') => State::SizeLf(value),
                (State::Extension(value), b'\t' | b' '..=b'~' | 0x80..) => {
                    self.count()?;
                    State::Extension(value)
                }
                (State::SizeLf(0) | State::TrailerLf, b'\n') => State::TrailerStart,
                (State::SizeLf(size), b'\n') => State::Data(size),
                (State::DataCr, b'\r') => State::DataLf,
                (State::DataLf, b'\n') => State::default(),
                (State::TrailerStart, b'\r') => State::EndLf,
                (State::EndLf, b'\n') => return Ok((at, true)),
                (State::TrailerStart, b'!'..=b'~') | (State::Trailer, b'\t' | b' '..=b'~' | 0x80..) => {
                    self.count()?;
                    State::Trailer
                }
                (State::Trailer, b'\r') => State::TrailerLf,
                _ => return Err("the chunked body is malformed"),
            };
        }
        Ok((at, false))
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
    use super::Chunked;

    fn scan(input: &str) -> Result<(usize, bool), &'static str> {
        let whole = Chunked::default().scan(input.as_bytes());
        // In single bytes the outcome must be the same.
        let mut chunked = Chunked::default();
        let mut bytes = 0;
        let mut single = Ok((0, false));
        for byte in input.bytes() {
            single = chunked.scan(&[byte]).map(|(length, done)| {
                bytes += length;
                (bytes, done)
            });
            if !matches!(single, Ok((_, false))) {
                break;
            }
        }
        assert_eq!(whole, single, "{input:?}");
        whole
    }

    #[test]
    fn follows_a_body_to_its_end_and_no_further() {
        assert_eq!(scan("5\r\nhello\r\n0\r\n\r\nGET /"), Ok((15, true)));
        assert_eq!(scan("5;a=b\r\nhello\r\n00\r\nX: y\r\n\r\n"), Ok((26, true)));
        assert_eq!(scan("5\r\nhel"), Ok((6, false)));
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
            assert!(scan(body).is_err(), "{body:?}");
        }
        let long = format!("5;{}\r\n", "a".repeat(17 * 1024));
        assert!(scan(&long).is_err());
    }
}
