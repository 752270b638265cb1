//! The page of `egret ui`: what is served, and to whom. What it shows is put together by `survey`; `cli::ui` asks for it.
//!
//! Everything is in the binary, nothing is fetched from elsewhere, and nothing can be changed through it.

mod assets;
mod guard;
mod row;

use axum::Router;

pub use guard::Token;
pub use row::Row;

/// The page, and `api` for those who know the token.
pub fn router(api: Router, token: &Token) -> Router {
    guard::for_this_machine(assets::router().merge(guard::for_who_knows(api, token)))
}

#[cfg(test)]
mod tests;
