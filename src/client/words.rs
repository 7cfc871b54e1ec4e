//! What is said of a client connection: where it stands, what became of a body, what was not read yet.

use std::cell::Cell;

/// What became of a request body that did not reach its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyFault {
    /// It is longer than `limit_request_body`.
    #[error("the request body is longer than {0} bytes")]
    TooLong(u64),
    /// It is not framed as it says, or broke off.
    #[error("the request body could not be read")]
    Unreadable,
}

/// A request's body as far as it was read.
#[derive(Debug, Default)]
pub struct Upload {
    fault: Cell<Option<BodyFault>>,
    received: Cell<u64>,
}

impl Upload {
    /// Another request's body is next.
    pub(super) fn begin(&self) {
        self.fault.set(None);
        self.received.set(0);
    }

    /// So many bytes of it were read in all.
    pub fn came(&self, bytes: u64) {
        self.received.set(bytes);
    }

    /// It will not be read to its end.
    pub fn failed(&self, fault: BodyFault) {
        self.fault.set(Some(fault));
    }

    /// What became of it, if it did not reach its end.
    pub fn fault(&self) -> Option<BodyFault> {
        self.fault.get()
    }

    /// How many bytes of it were read.
    pub fn received(&self) -> u64 {
        self.received.get()
    }
}

/// Where a client connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing of a request has come yet.
    Idle,
    /// A request's head has begun and is not complete.
    Head,
    /// A request is being answered, until the answer's last byte is written.
    Exchange,
}

/// What was not read on before its time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) enum Held {
    #[default]
    Nothing,
    /// Nobody looked whether there is something.
    Look,
    /// Something has come.
    Bytes,
}
