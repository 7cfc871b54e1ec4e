//! Leaving HTTP: what goes on with a client's connection then.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use super::Conn;
use crate::net::Stream;

/// What goes on with a connection that has left HTTP: with its stream, and what has been read of it. It closes
/// the connection at its end.
pub type Switch = Box<dyn FnOnce(Stream, Vec<u8>) -> Pin<Box<dyn Future<Output = ()>>>>;

impl Conn {
    /// The response that is made leaves HTTP (`101`): `switch` takes over once it is written.
    ///
    /// The end of the connection will be the end of what is spoken then, and must not look like one if it
    /// is cut off.
    pub fn switches(&self, switch: Switch) {
        self.until_close.set(true);
        *self.switch.borrow_mut() = Some(switch);
    }

    /// Whether HTTP is to be left.
    pub(in crate::client) fn is_switching(&self) -> bool {
        self.switch.borrow().is_some()
    }

    /// What takes over, HTTP having been left; or what is not to any more.
    pub(in crate::client) fn take_switch(&self) -> Option<Switch> {
        self.switch.take()
    }
}

/// What is to take over a connection holds the connection too: whatever becomes of serving it, that is not
/// to outlive it.
pub(in crate::client) struct Unswitched(pub(in crate::client) Rc<Conn>);

impl Drop for Unswitched {
    fn drop(&mut self) {
        drop(self.0.take_switch());
    }
}
