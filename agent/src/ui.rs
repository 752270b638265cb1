//! The page: what is served, and to whom. What it shows is put together by `survey`. `cli::ui` serves that of a machine or a cluster,
//! `app::gateway` that of one gateway; each is a [`Source`].
//!
//! Everything is in the binary, nothing is fetched from elsewhere, and nothing can be changed through it.

mod api;
mod asking;
mod assets;
mod guard;
mod row;

use axum::Router;

pub use api::api;
pub use asking::Source;
pub use guard::Token;
pub use row::Row;

/// The page, and `api` for those who know the token.
pub fn router(api: Router, token: &Token) -> Router {
    guard::for_this_machine(assets::router().merge(guard::for_who_knows(api, token)))
}

#[cfg(test)]
mod tests;
