//! An LU within reach: opened in this process, or held by another one that does what it is told. A verb that
//! administers an LU is written once, against this; what it does is the library's either way.

use uraid::lu::{Change, Changed, Status, Work};
use uraid::serve::control::Client;
use uraid::{ErrorKind, Lu};

use crate::console::Console;
use crate::failure::{Failure, Outcome};
use crate::target::{Target, Writing, as_on_disk};

/// An LU that can be administered.
pub(crate) enum Reached {
    /// By this process: stopped clean when it is let go of.
    Here(Box<Lu>),
    /// By another one, which goes on holding it.
    Held(Box<Holder>),
}

/// The process that holds an LU.
pub(crate) struct Holder {
    client: Client,
    name: String,
}

impl Reached {
    /// Asks the holder of the LU, or opens it for writing if nobody holds it. Also how it was before.
    pub(crate) fn new(target: &Target, how: &Writing, console: &Console) -> Outcome<(Reached, Status)> {
        if let Some(mut client) = target.holder()? {
            let (status, holding, pid) = client.look()?;
            if holding.read_only {
                let text = format!("{}: process {pid} holds it for reading only", status.name);
                return Err(Failure::of(ErrorKind::Busy, text));
            }
            return Reached::held(client);
        }
        // One that cannot be looked at cannot be opened either, and then that is what is said.
        let before = target.look_before(how);
        let lu = target.open_for_writing(how, console)?;
        Ok((Reached::Here(Box::new(lu)), before?))
    }

    /// The LU that is held by whom `client` is connected to, and how it is.
    pub(crate) fn held(mut client: Client) -> Outcome<(Reached, Status)> {
        let status = client.status()?;
        let name = status.name.clone();
        Ok((Reached::Held(Box::new(Holder { client, name })), status))
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        match self {
            Reached::Here(lu) => lu.name(),
            Reached::Held(holder) => &holder.name,
        }
    }

    /// Does another process hold it?
    pub(crate) fn is_held(&self) -> bool {
        matches!(self, Reached::Held(_))
    }

    /// How it is.
    pub(crate) fn status(&mut self) -> Outcome<Status> {
        match self {
            Reached::Here(lu) => Ok(lu.status()),
            Reached::Held(holder) => Ok(holder.client.status()?),
        }
    }

    /// Makes a change.
    pub(crate) fn carry_out(&mut self, change: &Change) -> uraid::Result<Changed> {
        match self {
            Reached::Here(lu) => lu.carry_out(change),
            Reached::Held(holder) => holder.client.carry_out(change),
        }
    }

    /// Waits until no work is under way or about to begin, or until `progress` says no: here that pauses the
    /// work at a checkpoint, a holder goes on with it.
    pub(crate) fn wait_for_work(&mut self, progress: &mut dyn FnMut(Work) -> bool) -> Outcome {
        match self {
            Reached::Here(lu) => lu.wait_for_work(progress)?,
            Reached::Held(holder) => {
                holder.client.wait_for_work(&mut |work| work.is_none_or(&mut *progress))?;
            }
        }
        Ok(())
    }

    /// Goes on with work that was paused.
    pub(crate) fn resume_work(&mut self) -> Outcome {
        match self {
            Reached::Here(lu) => lu.resume_work(),
            Reached::Held(holder) => holder.client.resume_work()?,
        }
        Ok(())
    }

    /// Lets go of it: here it is stopped clean. Gives back how it is now, for an LU that was `held` a moment
    /// ago.
    pub(crate) fn let_go(self, held: Status) -> Outcome<Status> {
        match self {
            Reached::Here(lu) => {
                lu.stop()?;
                Ok(as_on_disk(held))
            }
            Reached::Held(_) => Ok(held),
        }
    }
}
