"""What no client should send is answered, and is no fault of the service."""

import json
from urllib.parse import quote

import pytest
from speech_requests import connect
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect as open_socket


def list_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize("header", ["Host: [::1", "Host: localhost\r\nOrigin: http://[x"])
def test_half_an_address_is_foreign(address: str, header: str, caplog: pytest.LogCaptureFixture) -> None:
    with connect(address) as client:
        client.sendall(f"GET /v1/models HTTP/1.1\r\n{header}\r\n\r\n".encode())
        assert b" 403 " in client.recv(4096).split(b"\r\n")[0]
    assert list_errors(caplog) == []


def test_odd_values_in_a_realtime_session_leave_it_open(address: str, caplog: pytest.LogCaptureFixture) -> None:
    with open_socket(f"ws{address[4:]}/v1/realtime?intent=transcription") as socket:
        socket.recv()
        for kind in ([], {}, 1):
            given = {"audio": {"input": {"format": {"type": kind}}}}
            socket.send(json.dumps({"type": "session.update", "session": given}))
            assert json.loads(socket.recv())["error"]["param"] == "session.audio.input.format.type"
        socket.send(json.dumps({"type": "none", "event_id": "\ud800"}))
        assert json.loads(socket.recv())["error"]["event_id"] == "\ud800"
    assert list_errors(caplog) == []


def test_a_long_reason_in_any_script_closes_a_session(address: str, caplog: pytest.LogCaptureFixture) -> None:
    """The frame that closes a WebSocket has room for 123 bytes."""
    model = "модель" * 12
    with open_socket(f"ws{address[4:]}/v1/realtime?model={quote(model)}") as socket:
        socket.recv()
        socket.send('{"type": "input_audio_buffer.append", "audio": ""}')
        assert model in json.loads(socket.recv())["error"]["message"]
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv()
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1013
    assert closed.value.rcvd.reason.startswith("There is no model 'модель") and list_errors(caplog) == []
