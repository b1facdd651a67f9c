//! The arithmetic of POSIX access control lists, as Linux does it (`fs/posix_acl.c`): what they grant, what they make of a
//! mode and a mode of them, what is inherited. Pure: knows no inodes.

use hydfs_types::Attr;

/// The bits of a mode that a list stands for.
pub(crate) const RIGHTS: u16 = 0o777;
/// Rights of one entry.
const ALL: u16 = 0o7;
const HEAD_BYTES: usize = 4;
const ENTRY_BYTES: usize = 8;
const VERSION: u32 = 2;
/// The id of entries that name nobody in particular.
const NOBODY: u32 = u32::MAX;

/// Numbers of `linux/posix_acl.h`, in the order that entries have in a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Tag {
    Owner = 1,
    User = 2,
    /// The inode's own group.
    Group = 4,
    NamedGroup = 8,
    Mask = 16,
    Others = 32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    tag: Tag,
    rights: u16,
    id: u32,
}

/// A valid list: owner, group and others once, a mask where anybody is named, in that order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl(Vec<Entry>);

impl Acl {
    /// From the value of an extended attribute. `None`: it holds no entries, which stands for no list.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, &'static str> {
        if bytes.is_empty() {
            return Ok(None);
        }
        let (head, entries) = bytes
            .split_first_chunk::<HEAD_BYTES>()
            .ok_or("an access control list is cut short")?;
        if u32::from_le_bytes(*head) != VERSION {
            return Err("an access control list of another version");
        }
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        if !rest.is_empty() {
            return Err("an access control list ends within an entry");
        }
        let entries = entries.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
        if entries.is_empty() {
            return Ok(None);
        }
        valid(&entries)?;
        Ok(Some(Self(entries)))
    }

    /// The list that a mode alone stands for.
    fn of_mode(mode: u16) -> Self {
        let entry = |tag, shift| Entry {
            tag,
            rights: mode >> shift & ALL,
            id: NOBODY,
        };
        Self(vec![
            entry(Tag::Owner, 6),
            entry(Tag::Group, 3),
            entry(Tag::Others, 0),
        ])
    }

    /// As the value of an extended attribute.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.0 {
            bytes.extend((entry.tag as u16).to_le_bytes());
            bytes.extend(entry.rights.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether the nine bits of a mode say it all.
    pub fn is_mode_alone(&self) -> bool {
        let in_mode = |entry: &Entry| matches!(entry.tag, Tag::Owner | Tag::Group | Tag::Others);
        self.0.iter().all(in_mode)
    }

    /// The nine bits of the mode that goes with it: those of the group's class are the mask's, where there is one.
    pub fn mode(&self) -> u16 {
        let class = self.rights_of(self.class_tag());
        self.rights_of(Tag::Owner) << 6 | class << 3 | self.rights_of(Tag::Others)
    }

    /// What chmod(2) makes of it.
    pub fn with_mode(mut self, mode: u16) -> Self {
        let class = self.class_tag();
        for entry in &mut self.0 {
            entry.rights = match entry.tag {
                Tag::Owner => mode >> 6 & ALL,
                Tag::Others => mode & ALL,
                tag if tag == class => mode >> 3 & ALL,
                _ => entry.rights,
            };
        }
        self
    }

    /// The list and the mode of what is made with this mode where this list is passed on.
    pub fn of_new(&self, mode: u16) -> (Self, u16) {
        let access = self.clone().with_mode(self.mode() & mode);
        let granted = access.mode();
        (access, mode & !RIGHTS | granted)
    }

    /// Whose rights are those of the mode's second digit.
    fn class_tag(&self) -> Tag {
        let has_mask = self.0.iter().any(|entry| entry.tag == Tag::Mask);
        if has_mask { Tag::Mask } else { Tag::Group }
    }

    /// Of an entry that there is once.
    fn rights_of(&self, tag: Tag) -> u16 {
        let found = self.0.iter().find(|entry| entry.tag == tag);
        found.map_or(0, |entry| entry.rights)
    }
}

fn entry(bytes: &[u8; ENTRY_BYTES]) -> Result<Entry, &'static str> {
    let [tag_0, tag_1, rights_0, rights_1, id @ ..] = *bytes;
    let tag = match u16::from_le_bytes([tag_0, tag_1]) {
        1 => Tag::Owner,
        2 => Tag::User,
        4 => Tag::Group,
        8 => Tag::NamedGroup,
        16 => Tag::Mask,
        32 => Tag::Others,
        _ => return Err("an access control list has an entry of an unknown kind"),
    };
    let rights = u16::from_le_bytes([rights_0, rights_1]);
    if rights & !ALL != 0 {
        return Err("an access control list has rights that there are not");
    }
    let is_named = matches!(tag, Tag::User | Tag::NamedGroup);
    let id = u32::from_le_bytes(id);
    match is_named {
        true if id == NOBODY => Err("an access control list names nobody"),
        true => Ok(Entry { tag, rights, id }),
        false => Ok(Entry {
            tag,
            rights,
            id: NOBODY,
        }),
    }
}

fn valid(entries: &[Entry]) -> Result<(), &'static str> {
    let count = |tag| entries.iter().filter(|entry| entry.tag == tag).count();
    if !entries.is_sorted_by_key(|entry| entry.tag) {
        return Err("entries of an access control list are out of order");
    }
    if [Tag::Owner, Tag::Group, Tag::Others].map(count) != [1, 1, 1] {
        return Err("an access control list has owner, group and others once each");
    }
    let names = count(Tag::User) + count(Tag::NamedGroup) > 0;
    match count(Tag::Mask) {
        0 if names => Err("an access control list that names somebody has a mask"),
        0 | 1 => Ok(()),
        _ => Err("an access control list has two masks"),
    }
}

/// Whether a user may do all that is wanted (4, 2, 1), see `Inode::grants`.
pub(crate) fn grants(
    attr: &Attr,
    access: Option<Acl>,
    uid: u32,
    is_in: impl Fn(u32) -> Option<bool>,
    wanted: u16,
) -> bool {
    // Linux looks at no list whose mask is empty.
    let access = access.filter(|_| attr.mode & 0o070 != 0);
    let acl = access.unwrap_or_else(|| Acl::of_mode(attr.mode));
    let allows = |rights: u16| rights & wanted == wanted;
    if uid == attr.uid {
        return allows(acl.rights_of(Tag::Owner));
    }
    let mask = match acl.class_tag() {
        Tag::Mask => acl.rights_of(Tag::Mask),
        _ => ALL,
    };
    let user = |entry: &&Entry| entry.tag == Tag::User && entry.id == uid;
    if let Some(entry) = acl.0.iter().find(user) {
        return allows(entry.rights & mask);
    }
    let (mut belongs, mut granted, mut granted_by_all) = (false, false, true);
    for entry in &acl.0 {
        let group = match entry.tag {
            Tag::Group => attr.gid,
            Tag::NamedGroup => entry.id,
            _ => continue,
        };
        let allowed = allows(entry.rights & mask);
        match is_in(group) {
            Some(true) => {
                belongs = true;
                granted |= allowed;
            }
            Some(false) => {}
            None => granted_by_all &= allowed,
        }
    }
    if belongs {
        granted
    } else {
        granted_by_all && allows(acl.rights_of(Tag::Others))
    }
}

#[cfg(test)]
#[path = "acl_tests.rs"]
mod tests;
