// SPDX-License-Identifier: GPL-2.0

//! Receive segment coalescing: several RNDIS messages of one ring packet are the pieces of one frame.
//!
//! A host that was promised the capability names each piece by its per-packet info: first, last, or in
//! between. All pieces of a frame lie in one ring packet, so that their memory is ours until that packet
//! is completed; what is unfinished at the end of a packet is lost. The id in the info is not looked at,
//! as in the C driver: hosts are not known to use it. Source: specification 3.5, 5.3; `rsc` in
//! `hyperv_net.h`.

use crate::rndis::packet::RxData;
use core::ops::DerefMut;

/// Most pieces of a frame: as many as a ring packet has ranges, in the C driver.
pub const MAX_PIECES: usize = 562;
/// Longest frame: an IPv6 packet without jumbo option, and its Ethernet header.
pub const MAX_FRAME_LEN: u32 = 65535 + 40 + 14;

/// Where a piece lies in the receive buffer.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Piece {
    /// First byte, from the start of the buffer.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// What is to be done after a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step<'a> {
    /// Nothing yet: the frame goes on in the next message.
    More,
    /// Deliver a frame.
    Frame(Frame<'a>),
}

/// A whole frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What the host says about it: of the first piece.
    pub data: RxData,
    /// Its pieces in order, at least one.
    pub pieces: &'a [Piece],
    /// Bytes in all.
    pub len: u32,
}

/// Why a frame was lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CoalesceError {
    /// A piece that continues nothing: the first one is missing, or was refused.
    NoStart,
    /// A new frame, or the packet's end, came before the last piece.
    NoEnd,
    /// More pieces than [`MAX_PIECES`], or than there is room for.
    TooManyPieces,
    /// More bytes than [`MAX_FRAME_LEN`].
    TooLong,
}

/// The frame being put together, in storage given by the caller.
#[derive(Debug)]
pub struct Coalescer<S> {
    pieces: S,
    count: usize,
    len: u32,
    /// Of the first piece; present while a frame is being put together.
    data: Option<RxData>,
    lost: u64,
}

impl<S: DerefMut<Target = [Piece]>> Coalescer<S> {
    /// With room for as many pieces as `storage` has; [`MAX_PIECES`] are used.
    pub const fn new(storage: S) -> Self {
        Self {
            pieces: storage,
            count: 0,
            len: 0,
            data: None,
            lost: 0,
        }
    }

    /// Takes the next message of a ring packet: a frame or a piece of one, at `offset` in the receive
    /// buffer. An error means that a frame was lost; the next first piece begins anew.
    #[inline]
    pub fn push(&mut self, offset: u32, data: &RxData) -> Result<Step<'_>, CoalesceError> {
        let Some(fragment) = data.fragment else {
            self.abandon();
            return self.start(offset, data);
        };
        if fragment.first {
            self.abandon();
            if fragment.last {
                return self.start(offset, data);
            }
            self.data = Some(*data);
        } else if self.data.is_none() {
            return self.fail(CoalesceError::NoStart);
        }
        if let Err(error) = self.add(offset, data.data_len) {
            return self.fail(error);
        }
        if !fragment.last {
            return Ok(Step::More);
        }
        self.finish()
    }

    /// The next message of the packet was refused. It may have been a piece of the frame that was begun, which
    /// would have a hole without it: that frame is lost.
    pub fn gap(&mut self) {
        self.abandon();
    }

    /// The ring packet ends: so must a frame that was begun.
    pub fn end_of_packet(&mut self) -> Result<(), CoalesceError> {
        if self.abandon() {
            Err(CoalesceError::NoEnd)
        } else {
            Ok(())
        }
    }

    /// Frames lost so far.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// A frame of one piece, while none is being put together.
    #[inline]
    fn start(&mut self, offset: u32, data: &RxData) -> Result<Step<'_>, CoalesceError> {
        let len = data.data_len;
        if len > MAX_FRAME_LEN {
            return self.fail(CoalesceError::TooLong);
        }
        let Some((first, _)) = self.pieces.split_first_mut() else {
            self.lost = self.lost.wrapping_add(1);
            return Err(CoalesceError::TooManyPieces);
        };
        *first = Piece { offset, len };
        let (data, pieces) = (*data, core::slice::from_ref(first));
        Ok(Step::Frame(Frame { data, pieces, len }))
    }

    fn add(&mut self, offset: u32, len: u32) -> Result<(), CoalesceError> {
        let total = self
            .len
            .checked_add(len)
            .filter(|total| *total <= MAX_FRAME_LEN)
            .ok_or(CoalesceError::TooLong)?;
        let piece = self
            .pieces
            .iter_mut()
            .take(MAX_PIECES)
            .nth(self.count)
            .ok_or(CoalesceError::TooManyPieces)?;
        *piece = Piece { offset, len };
        self.count = self.count.saturating_add(1);
        self.len = total;
        Ok(())
    }

    fn finish(&mut self) -> Result<Step<'_>, CoalesceError> {
        let (count, len) = (self.count, self.len);
        self.count = 0;
        self.len = 0;
        match (self.data.take(), self.pieces.get(..count)) {
            (Some(data), Some(pieces)) => Ok(Step::Frame(Frame { data, pieces, len })),
            _ => Err(CoalesceError::NoStart),
        }
    }

    fn fail(&mut self, error: CoalesceError) -> Result<Step<'_>, CoalesceError> {
        if !self.abandon() {
            self.lost = self.lost.wrapping_add(1);
        }
        Err(error)
    }

    /// Gives up what was begun; whether there was anything.
    fn abandon(&mut self) -> bool {
        self.count = 0;
        self.len = 0;
        let begun = self.data.take().is_some();
        self.lost = self.lost.wrapping_add(begun.into());
        begun
    }
}

#[cfg(test)]
mod tests;
