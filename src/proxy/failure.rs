//! What went wrong with an exchange: whose fault it is, what the client is told, whether its
//! connection may be kept.

use http::StatusCode;

use crate::account::Refusal;
use crate::keepalive::{CloseReason, drops_connection};
use crate::net::{BackendAddr, ConnectError};

/// Why a request got no response from its backend.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The request breaks a rule of HTTP.
    #[error("bad request: {0}")]
    BadRequest(&'static str),
    /// An `Expect` that is not `100-continue`.
    #[error("the request expects something that is not known here")]
    Expectation,
    /// A method this proxy does not forward.
    #[error("the method is not forwarded by this proxy")]
    Method,
    /// The lines of a repeated header, joined, are longer than `limit_request_field_size`.
    #[error("a header is longer than {0} bytes")]
    FieldTooLong(usize),
    /// Over HTTP/2: the request line would be longer than `limit_request_line`.
    #[error("the request target is too long for a line of {0} bytes")]
    TargetTooLong(usize),
    /// Over HTTP/2: there are more headers than `limit_request_fields`.
    #[error("the request has more than {0} headers")]
    TooManyFields(usize),
    /// The body is longer than `limit_request_body`.
    #[error("the request body is longer than {0} bytes")]
    BodyTooLong(u64),
    /// The client's body did not come in time.
    #[error("the request body did not come in time")]
    BodyTimeout,
    /// No route is for this host and path.
    #[error("no route is for this host and path")]
    NoRoute,
    /// The upstream has no backend that takes requests.
    #[error("upstream {upstream} has no server that takes requests")]
    NoServer {
        /// Its name.
        upstream: String,
    },
    /// The backend's limits leave no connection for it.
    #[error("no connection to {backend} within its limits: {}", why.label())]
    NoConnection {
        /// The backend.
        backend: BackendAddr,
        /// Why not.
        why: Refusal,
    },
    /// No connection could be opened.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The backend closed or reset the connection before it answered.
    #[error("{backend} closed the connection before it answered (reused connection: {reused})")]
    NoAnswer {
        /// The backend.
        backend: BackendAddr,
        /// Whether the connection had served before: then it may have been closed for its age.
        reused: bool,
        /// What the HTTP library said.
        source: hyper::Error,
    },
    /// What the backend sent is not an HTTP response.
    #[error("{backend} sent something that is not an HTTP response")]
    BadAnswer {
        /// The backend.
        backend: BackendAddr,
        /// What the HTTP library said, if it was it that found out.
        source: Option<hyper::Error>,
    },
    /// The backend did not answer within the time that the client gives it (`grpc-timeout`).
    #[error("the client's deadline is over")]
    Deadline,
    /// The backend did not answer in time.
    #[error("{backend} did not answer within its timeout")]
    AnswerTimeout {
        /// The backend.
        backend: BackendAddr,
    },
}

impl Failure {
    /// What the client is told.
    pub fn status(&self) -> StatusCode {
        match self {
            Failure::BadRequest(_) => StatusCode::BAD_REQUEST,
            Failure::Method => StatusCode::METHOD_NOT_ALLOWED,
            Failure::Expectation => StatusCode::EXPECTATION_FAILED,
            Failure::FieldTooLong(_) | Failure::TooManyFields(_) => {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            }
            Failure::TargetTooLong(_) => StatusCode::URI_TOO_LONG,
            Failure::BodyTooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Failure::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Failure::NoRoute => StatusCode::NOT_FOUND,
            Failure::NoServer { .. }
            | Failure::NoConnection { .. }
            | Failure::Connect(
                ConnectError::NoLocalPort { .. } | ConnectError::NoDescriptor { .. },
            ) => StatusCode::SERVICE_UNAVAILABLE,
            Failure::Connect(
                ConnectError::Io { .. } | ConnectError::Tls { .. } | ConnectError::NotHttp2 { .. },
            )
            | Failure::NoAnswer { .. }
            | Failure::BadAnswer { .. } => StatusCode::BAD_GATEWAY,
            Failure::Connect(ConnectError::Timeout { .. })
            | Failure::AnswerTimeout { .. }
            | Failure::Deadline => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The sentence in the answer: what the client may know. No address of ours, no detail of a
    /// backend.
    pub fn sentence(&self) -> &'static str {
        match self {
            Failure::BadRequest(reason) => reason,
            Failure::Method => "This proxy does not forward the method.",
            Failure::Expectation => "The expectation is not known.",
            Failure::FieldTooLong(_) => "A header of the request is too long.",
            Failure::TargetTooLong(_) => "The request target is too long.",
            Failure::TooManyFields(_) => "The request has too many headers.",
            Failure::BodyTooLong(_) => "The request body is too long.",
            Failure::BodyTimeout => "The request body did not come in time.",
            Failure::NoRoute => "No route is for this host and path.",
            Failure::NoServer { .. } => "No server takes requests for this.",
            Failure::NoConnection { why, .. } => match why {
                Refusal::LineFull => "Too many requests wait for a connection to the backend.",
                Refusal::AcquireTimeout => "No connection to the backend came free in time.",
            },
            Failure::Connect(ConnectError::NoLocalPort { .. }) => {
                "The proxy has no local port left towards the backend."
            }
            Failure::Connect(ConnectError::NoDescriptor { .. }) => {
                "The proxy has no file descriptor left."
            }
            Failure::Connect(ConnectError::Io { .. }) => "The backend could not be reached.",
            Failure::Connect(ConnectError::Tls { .. } | ConnectError::NotHttp2 { .. }) => {
                "The backend could not be spoken to."
            }
            Failure::Connect(ConnectError::Timeout { .. }) => {
                "The backend did not accept a connection in time."
            }
            Failure::NoAnswer { .. } => "The backend closed the connection before it answered.",
            Failure::BadAnswer { .. } => "The backend's answer could not be read.",
            Failure::AnswerTimeout { .. } | Failure::Deadline => {
                "The backend did not answer in time."
            }
        }
    }

    /// Whether no local port was left for a connection.
    pub(super) fn is_out_of_ports(&self) -> bool {
        matches!(self, Failure::Connect(ConnectError::NoLocalPort { .. }))
    }

    /// Whether another backend of the upstream may be tried: nothing of the request was sent, and
    /// the fault is this backend's.
    pub fn is_backends_connect_fault(&self) -> bool {
        match self {
            Failure::Connect(
                ConnectError::Io { .. }
                | ConnectError::Timeout { .. }
                | ConnectError::Tls { .. }
                | ConnectError::NotHttp2 { .. },
            ) => true,
            Failure::Connect(
                ConnectError::NoLocalPort { .. } | ConnectError::NoDescriptor { .. },
            )
            | Failure::BadRequest(_)
            | Failure::Method
            | Failure::Expectation
            | Failure::FieldTooLong(_)
            | Failure::TargetTooLong(_)
            | Failure::TooManyFields(_)
            | Failure::BodyTooLong(_)
            | Failure::BodyTimeout
            | Failure::Deadline
            | Failure::NoRoute
            | Failure::NoServer { .. }
            | Failure::NoConnection { .. }
            | Failure::NoAnswer { .. }
            | Failure::BadAnswer { .. }
            | Failure::AnswerTimeout { .. } => false,
        }
    }

    /// Why the backend connection the exchange was on has ended.
    pub fn close_reason(&self) -> CloseReason {
        match self {
            Failure::NoAnswer { .. } => CloseReason::PeerClosedBusy,
            Failure::BadAnswer { .. } => CloseReason::Protocol,
            Failure::AnswerTimeout { .. } => CloseReason::Timeout,
            // The client's doing, like the rest.
            Failure::BodyTimeout
            | Failure::Deadline
            | Failure::BadRequest(_)
            | Failure::Method
            | Failure::Expectation
            | Failure::FieldTooLong(_)
            | Failure::TargetTooLong(_)
            | Failure::TooManyFields(_)
            | Failure::BodyTooLong(_)
            | Failure::NoRoute
            | Failure::NoServer { .. }
            | Failure::NoConnection { .. }
            | Failure::Connect(_) => CloseReason::ClientGone,
        }
    }

    /// Whether the client's connection ends with this answer. Beside Apache httpd's statuses those of
    /// what it answers 400, and of an expectation: who expects 100 may or may not send its body.
    pub fn ends_client_connection(&self) -> bool {
        let status = self.status().as_u16();
        drops_connection(status) || matches!(status, 417 | 431)
    }
}
