use super::*;
use wire::dump_request;

fn request(size: usize, joined: bool) -> Request {
    Request { kind: 0x10, body: Zeroizing::new(vec![0; size]), joined, acknowledged: true }
}

fn window(requests: &[Request]) -> usize {
    window_length(requests, 3)
}

#[test]
fn a_window_ends_by_number_and_by_bytes_and_never_within_a_pair() {
    let small = || request(8, false);
    assert_eq!(window(&[small(), small()]), 2);
    assert_eq!(window(&[small(), small(), small(), small()]), 3);
    assert_eq!(window(&[small(), small(), small(), request(8, true)]), 2);
    assert_eq!(window(&[request(WINDOW_BYTES, false), small()]), 1);
    assert_eq!(window(&[request(WINDOW_BYTES, false), request(8, true), small()]), 2);
}

fn message(kind: u16, flags: u16, sequence: u32, payload: &mut [u8]) -> Message<'_> {
    Message { kind, flags, sequence, payload }
}

fn take(kind: u16, flags: u16, sequence: u32, payload: &[u8]) -> Result<bool, KernelError> {
    let mut dump = Dump::new(5, 0x10, "SAs");
    let payload = &mut payload.to_vec();
    dump.take(message(kind, flags, sequence, payload), &mut |bytes| Ok(Some(bytes.len())))
}

#[test]
fn a_dump_ends_with_done_or_with_an_error_wherever_that_is_carried() {
    let eperm = (-1i32).to_ne_bytes();
    assert_eq!(take(0x10, 2, 5, &[1]), Ok(false));
    assert_eq!(take(NLMSG_DONE, 2, 5, &[0; 4]), Ok(true));
    assert_eq!(take(NLMSG_DONE, 2, 4, &[0; 4]), Ok(false), "an answer to something else");
    for kind in [NLMSG_DONE, NLMSG_ERROR] {
        let error = take(kind, 0, 5, &eperm).unwrap_err().to_string();
        assert_eq!(error, "cannot list SAs: EPERM");
    }
    assert!(take(0x17, 2, 5, &[]).is_err(), "an unexpected type");
    assert!(take(NLMSG_DONE, 2, 5, &[]).is_err(), "an end without a number");
}

/// An object that is left out of the list would be taken for absent.
#[test]
fn an_object_that_can_not_be_read_is_an_error_and_not_left_out_of_a_dump() {
    let mut dump = Dump::new(5, 0x10, "SAs");
    let unread = garbled("an SA of 3 bytes");
    let mut decode = |_: &mut [u8]| Err::<Option<()>, _>(unread.clone());
    let mut object = [1, 2, 3];
    let taken = dump.take(message(0x10, 2, 5, &mut object), &mut decode);
    assert_eq!(taken, Err(unread));
    // The same where the message itself can't be read.
    let mut dump = Dump::<()>::new(5, 0x10, "SAs");
    let mut datagram = dump_request(0x10, &[0; 8], 5);
    datagram[0] = 200;
    assert!(dump.take_datagram(&mut datagram, &mut |_| Ok(None)).is_err());
}

#[test]
fn an_interrupted_dump_says_so_even_at_its_end() {
    let mut dump = Dump::new(5, 0x10, "SAs");
    let mut decode = |_: &mut [u8]| Ok(Some(()));
    let mut end = [0; 4];
    let done = message(NLMSG_DONE, 2 | NLM_F_DUMP_INTR, 5, &mut end);
    assert_eq!(dump.take(done, &mut decode), Ok(true));
    assert!(dump.interrupted);
}

#[test]
fn answers_are_matched_by_sequence_number() {
    let mut open = Window::new(&[request(0, false), request(0, false)], u32::MAX);
    let refused = &mut (-17i32).to_ne_bytes();
    open.take(&message(NLMSG_ERROR, 0, 7, &mut [0; 4])).unwrap();
    assert_eq!(open.missing, 2, "an answer to something that was given up");
    open.take(&message(NLMSG_ERROR, 0, 0, refused)).unwrap();
    open.take(&message(0x10, 0, u32::MAX, &mut [1, 2])).unwrap();
    open.take(&message(NLMSG_ERROR, 0, u32::MAX, &mut [0; 4])).unwrap();
    assert!(open.is_complete());
    let answers: Vec<_> = open.into_answers();
    assert_eq!(answers[0].outcome, Ok(()));
    assert_eq!(answers[0].object.as_deref(), Some(&vec![1, 2]));
    assert_eq!(answers[1].outcome.as_ref().unwrap_err().errno, Errno::EEXIST);
}

#[test]
fn a_request_is_acknowledged_once() {
    let mut open = Window::new(&[request(0, false), request(0, false)], 1);
    open.take(&message(NLMSG_ERROR, 0, 1, &mut [0; 4])).unwrap();
    assert!(open.take(&message(NLMSG_ERROR, 0, 1, &mut [0; 4])).is_err());
}

#[test]
fn without_an_acknowledgement_one_message_is_the_whole_answer() {
    let ask = || Request { acknowledged: false, ..request(0, false) };
    let mut open = Window::new(&[ask(), ask()], 1);
    open.take(&message(0x18, 0, 1, &mut [1, 2])).unwrap();
    assert!(!open.is_complete());
    open.take(&message(NLMSG_ERROR, 0, 2, &mut (-113i32).to_ne_bytes())).unwrap();
    assert!(open.is_complete());
    assert!(open.take(&message(0x18, 0, 1, &mut [1, 2])).is_err(), "a second answer");
    let answers = open.into_answers();
    assert_eq!(answers[0].outcome, Ok(()));
    assert!(answers[0].object.is_some());
    assert!(answers[1].outcome.is_err());
}

const LIST_LINKS: (u16, u16) = (18, 16);

/// An error that repeats the request would repeat the key in it. The test asks rtnetlink, which
/// answers every user.
#[test]
fn an_error_repeats_nothing_of_the_request() {
    let mut engine = Engine::open(Protocol::Route).unwrap();
    // `struct ifinfomsg` of a device that isn't there, with a key in its last fields.
    let mut body = Zeroizing::new(vec![0; 16]);
    body[4..8].copy_from_slice(&0x7fff_ff01u32.to_ne_bytes());
    body[8..].fill(0x5f);
    let mut send = Vec::new();
    let request = Request { kind: LIST_LINKS.0, body, joined: false, acknowledged: true };
    request.append(&mut send, 1);
    engine.send(&send, "asking").unwrap();
    let length = engine.receive("asking").unwrap();
    let answer = &mut engine.buffer[..length];
    let repeated = answer.windows(8).any(|bytes| bytes == [0x5f; 8]);
    let message = Messages::of(answer).next().unwrap().unwrap();
    let refusal = wire::acknowledgement(&message).unwrap().unwrap_err();
    assert_eq!(refusal.errno, Errno::ENODEV, "it is refused");
    assert!(!repeated, "the answer repeats the request");
}

/// Another program's answer could fake a host without links or without SAs.
#[test]
#[ignore = "needs root: cargo xtask test"]
fn what_another_program_sends_is_no_answer() {
    let mut engine = Engine::open(Protocol::Route).unwrap();
    let mut address = SocketAddr::new(0, 0);
    engine.socket.get_address(&mut address).unwrap();
    // The end of a dump, before the kernel has said anything.
    let mut forged = dump_request(NLMSG_DONE, &[0; 4], engine.sequence + 1);
    forged[6..8].copy_from_slice(&2u16.to_ne_bytes());
    let other = Socket::new(NETLINK_ROUTE).unwrap();
    other.send_to(&forged, &address, 0).unwrap();
    let links = engine.dump(LIST_LINKS, &[0; 16], "links", |_| Ok(Some(()))).unwrap();
    assert!(!links.is_empty(), "lo is always there");
}

/// `XFRM_MSG_GETPOLICY`, answered with `ENOENT` for an index that isn't there.
fn look() -> Request {
    let mut body = Zeroizing::new(vec![0; 64]);
    body[56..60].copy_from_slice(&0x7fff_ff01u32.to_ne_bytes());
    Request { kind: 0x15, body, joined: false, acknowledged: true }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn answers_that_do_not_fit_are_lost_and_the_socket_goes_on() {
    let mut engine = Engine::open(Protocol::Xfrm).unwrap();
    engine.socket.set_rx_buf_sz(1i32).unwrap();
    let requests: Vec<_> = (0..WINDOW).map(|_| look()).collect();
    let lost = engine.transact(&requests, WINDOW);
    assert!(matches!(lost, Err(KernelError::Lost { .. })));
    sockopt::set_socket_recv_buffer_size(&engine.socket, WISHED_BUFFER).unwrap();
    let answers = engine.transact(&requests, WINDOW).unwrap();
    assert_eq!(answers.len(), WINDOW);
    assert!(
        answers.iter().all(|answer| answer.outcome.as_ref().unwrap_err().errno == Errno::ENOENT)
    );
}

#[test]
fn a_window_is_as_large_as_its_answers_allow() {
    assert_eq!((fitting(WINDOW, 212_992), fitting(LOOK_WINDOW, 212_992)), (128, 32));
    assert_eq!((fitting(WINDOW, 32_768), fitting(LOOK_WINDOW, 32_768)), (34, 8));
    assert_eq!((fitting(WINDOW, 2304), fitting(LOOK_WINDOW, 2304)), (2, 1));
    assert_eq!((fitting(WINDOW, 0), fitting(LOOK_WINDOW, usize::MAX >> 8)), (1, 32));
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_window_fits_a_receive_buffer_of_any_size() {
    for size in [1, 1152, 2304, 4096, 8192, 16384, 65536] {
        let mut engine = Engine::open(Protocol::Xfrm).unwrap();
        sockopt::set_socket_recv_buffer_size(&engine.socket, size).unwrap();
        engine.room = sockopt::socket_recv_buffer_size(&engine.socket).unwrap();
        let requests: Vec<_> = (0..2 * WINDOW).map(|_| look()).collect();
        let answers = engine.transact(&requests, WINDOW);
        assert_eq!(answers.map(|answers| answers.len()), Ok(2 * WINDOW), "{size}");
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_receive_buffer_is_large_whatever_the_limit_of_others() {
    let engine = Engine::open(Protocol::Xfrm).unwrap();
    // The kernel doubles what it is given.
    assert_eq!(engine.room, 2 * WISHED_BUFFER);
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_window_fits_the_default_receive_buffer() {
    let default = std::fs::read_to_string("/proc/sys/net/core/rmem_default").unwrap();
    let mut engine = Engine::open(Protocol::Xfrm).unwrap();
    // The kernel doubles what it is given.
    engine.socket.set_rx_buf_sz(default.trim().parse::<i32>().unwrap() / 2).unwrap();
    let requests: Vec<_> = (0..WINDOW).map(|_| look()).collect();
    for _ in 0..20 {
        assert_eq!(engine.transact(&requests, WINDOW).unwrap().len(), WINDOW);
    }
}

#[test]
#[ignore = "needs root: cargo xtask test"]
fn a_dump_that_was_given_up_does_not_disturb_the_next() {
    let mut engine = Engine::open(Protocol::Xfrm).unwrap();
    let sequence = engine.next_sequence();
    engine.send(&wire::dump_request(0x15, &[], sequence), "listing").unwrap();
    let list = engine.dump((0x15, 0x13), &[], "policies", |_| Ok(Some(())));
    let again = engine.dump((0x15, 0x13), &[], "policies", |_| Ok(Some(()))).unwrap();
    assert!(list.is_ok_and(|list| list.len() == again.len()));
}
