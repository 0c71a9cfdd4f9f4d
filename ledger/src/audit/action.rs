//! What can be done that the audit writes down: the one list of its words.

macro_rules! actions {
    ($($name:ident $word:literal $about:literal;)*) => {
        /// An operation's word in the audit, in the table of endpoints and at the command line.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Action {
            $(#[doc = $about] $name,)*
        }

        impl Action {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// As written.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

actions! {
    Generate "generate" "Marks a text.";
    Detect "detect" "Judges a text.";
    DetectBatch "detect.batch" "Judges several texts.";
    DetectStream "detect.stream" "Judges a stream of texts.";
    JobCreate "job.create" "Orders a dump's judging.";
    JobUpload "job.upload" "Brings a job's dump.";
    JobCancel "job.cancel" "Ends a job.";
    JobRun "job.run" "Judges a job's dump.";
    RingCreate "ring.create" "Makes a ring.";
    RingChange "ring.change" "Changes what a ring allows.";
    KeyList "key.list" "Shows rings, at the command line.";
    KeyCreate "key.create" "Adds a version.";
    KeyRotate "key.rotate" "Begins a rotation.";
    KeyActivate "key.activate" "Ends a rotation: a version becomes active.";
    KeyAbortRotation "key.abort_rotation" "Calls a rotation off.";
    KeyAbort "key.abort" "The same, as the command line has always written it.";
    KeyDisable "key.disable" "Takes a version out of detection.";
    KeyEnable "key.enable" "Takes it back.";
    KeyCompromise "key.compromise" "Notes that others may hold a version.";
    KeyScheduleDestroy "key.schedule_destroy" "Sets the time of a destruction.";
    KeyDestroyDryRun "key.destroy_dry_run" "Only asks what it would mean, at the command line.";
    KeyCancelDestroy "key.cancel_destroy" "Calls a destruction off.";
    KeyDestroy "key.destroy" "Destroys a master.";
    KeyImport "key.import" "Brings a master.";
    KeyExport "key.export" "Takes a master out, wrapped.";
    KeyCalibration "key.calibration" "Hands a calibration report in.";
    KeyCalibrate "key.calibrate" "Calibrates a version.";
    KeyRewrap "key.rewrap" "Wraps everything anew.";
    ProfileCreate "profile.create" "Stores a profile.";
    ProfileName "profile.name" "Lets a name mean a profile.";
    TokenCreate "token.create" "Makes a token.";
    TokenList "token.list" "Shows tokens, at the command line.";
    TokenRevoke "token.revoke" "Ends a token.";
    AuditVerify "audit.verify" "Verifies the audit.";
    AuditExport "audit.export" "Hands evidence out.";
    AuditAcceptRestore "audit.accept_restore" "Accepts a restored database.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_means_one_thing() {
        let words: BTreeSet<_> = Action::ALL.iter().map(|action| action.name()).collect();
        assert_eq!(words.len(), Action::ALL.len());
        assert!(
            words.iter().all(|word| word.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_')))
        );
    }
}
