//! One request, tried until it gets the expected answer: whether a path is there, and is what it is said to be.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::{
    Options,
    connection::{Target, get},
};

const PATIENCE: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(50);

pub(super) async fn run(options: &Options, target: &Target) -> Result<Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let tried = timeout(PATIENCE, once(options, target)).await.context("no answer").flatten();
        match tried {
            Ok(()) => return Ok(json!({})),
            Err(error) if Instant::now() > deadline => {
                return Err(error.context(format!("the answer to a GET of {}", options.path)));
            }
            Err(_) => sleep(INTERVAL).await,
        }
    }
}

async fn once(options: &Options, target: &Target) -> Result<()> {
    let mut connection = target.connect().await?;
    let answer = connection.exchange(&get(&options.path, true)).await?;
    answer.expect(options.status)?;
    let body = String::from_utf8_lossy(&answer.body);
    ensure!(body.starts_with(&options.body), "{body:?} instead of {:?}", options.body);
    Ok(())
}
