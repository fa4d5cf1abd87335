use super::review::AUDIENCE;

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unauthorized {
    #[error("the token is not valid for the audience {AUDIENCE}, or has expired")]
    InvalidToken,
    /// The user has no permission for the page.
    #[error("user {0} has no permission for this page")]
    Forbidden(String),
    #[error("too many tokens are being reviewed")]
    TooManyReviews,
    #[error("the API server cannot review the token: {0}")]
    ReviewFailed(String),
}
