//! Bulk: large bodies one after the other on one connection, down or up, until the time is over.

use std::time::Instant;

use anyhow::{Result, bail};
use serde_json::Value;

use super::{
    Options,
    connection::{Connection, Target, get, put},
    window::Window,
};
use crate::server::{BULK, BULK_SIZE, UPLOAD};

/// What one write takes.
const PIECE: usize = 64 * 1024;

#[derive(Clone, Copy)]
pub(super) enum Direction {
    Down,
    Up,
}

pub(super) async fn run(options: &Options, target: &Target, direction: Direction) -> Result<Value> {
    let mut connection = target.connect().await?;
    let transfer = async |connection: &mut Connection| match direction {
        Direction::Down => connection.exchange(&get(BULK, false)).await?.expect(200),
        Direction::Up => upload(connection).await,
    };
    let began = Instant::now();
    while began.elapsed() < options.warm_up() {
        transfer(&mut connection).await?;
    }
    let (window, began) = (Window::begin(options)?, Instant::now());
    let mut bytes = 0;
    while began.elapsed() < options.window() {
        transfer(&mut connection).await?;
        bytes += BULK_SIZE;
    }
    window.end(bytes)
}

async fn upload(connection: &mut Connection) -> Result<()> {
    static PIECES: [u8; PIECE] = [b'x'; PIECE];
    connection.send(&put(UPLOAD, BULK_SIZE)).await?;
    for _ in 0..BULK_SIZE / PIECE {
        connection.send(&PIECES).await?;
    }
    let answer = connection.answer().await?;
    match answer.status {
        // Written, or written over.
        201 | 204 => Ok(()),
        status => bail!("status {status} for an upload: {}", String::from_utf8_lossy(&answer.body).trim()),
    }
}
