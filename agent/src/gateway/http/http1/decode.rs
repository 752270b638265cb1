//! Takes a body out of the bytes of a connection, piece by piece.

use bytes::BytesMut;

use super::{Framing, Piece, chunked::Chunked};

/// Where in its body a connection is.
#[derive(Debug)]
pub(super) struct Decoder(State);

#[derive(Debug)]
enum State {
    Over,
    Length(u64),
    Chunked(Chunked),
    UntilEnd,
}

impl Decoder {
    /// At the start of a body. `chunked` is how its chunks are read.
    pub(super) fn new(framing: Framing, chunked: impl FnOnce() -> Chunked) -> Self {
        Self(match framing {
            Framing::None | Framing::Length(0) => State::Over,
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Chunked(chunked()),
            Framing::UntilEnd => State::UntilEnd,
        })
    }

    /// No body is expected, or it has ended.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.0, State::Over)
    }

    /// What is left of a body that says how long it is.
    pub(super) fn exact(&self) -> Option<u64> {
        match self.0 {
            State::Over => Some(0),
            State::Length(left) => Some(left),
            State::Chunked(_) | State::UntilEnd => None,
        }
    }

    /// The next piece of the body in `input`, which goes on with what follows it. None: the body is over, or more must be read.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Piece>, &'static str> {
        let length = match &mut self.0 {
            State::Over => return Ok(None),
            State::Length(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= length as u64;
                if *left == 0 {
                    self.0 = State::Over;
                }
                length
            }
            State::Chunked(chunked) => {
                let piece = chunked.next(input)?;
                if chunked.is_over() {
                    self.0 = State::Over;
                }
                return Ok(piece);
            }
            State::UntilEnd => input.len(),
        };
        Ok((length > 0).then(|| Piece::Data(input.split_to(length).freeze())))
    }

    /// The connection ended. False: the body had not.
    pub(super) fn end(&mut self) -> bool {
        if matches!(self.0, State::UntilEnd) {
            self.0 = State::Over;
        }
        self.is_over()
    }
}
