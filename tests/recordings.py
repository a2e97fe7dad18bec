"""Writers of small recordings in the true formats of CIFAR10-DVS: AEDAT 2.0, and AEDAT 4."""

import struct

import flatbuffers
import numpy as np

XML = """<dv version="2.0"><node name="outInfo" path="/mainloop/Recorder/outInfo/"><node name="0" path="/0/">
<attr key="compression" type="string">NONE</attr><attr key="originalModuleName" type="string">capture</attr>
<attr key="originalOutputName" type="string">events</attr><attr key="typeDescription" type="string">events</attr>
<attr key="typeIdentifier" type="string">EVTS</attr><node name="info" path="/0/info/">
<attr key="sizeX" type="int">128</attr><attr key="sizeY" type="int">128</attr>
<attr key="source" type="string">DVS128</attr></node></node></node></dv>""".replace("\n", "")


def aedat2(t, column, row, darker, special=()):
    """Bytes of an AEDAT 2.0 file: addresses as the sensor counts them; ``special``: indices with the top bit set."""
    address = (np.asarray(row, np.uint32) << 8) | (np.asarray(column, np.uint32) << 1) | np.asarray(darker, np.uint32)
    address[list(special)] |= np.uint32(1 << 31)
    words = np.empty(len(address), [("address", ">u4"), ("t", ">u4")])
    words["address"], words["t"] = address, t
    return b"#!AER-DAT2.0\r\n# This is a raw AE data file\r\n#Start: 0x23\r\n" + words.tobytes()


def aedat4(t, x, y, p, packets=1, broken=False):
    """Bytes of an AEDAT 4 file without compression, its events in so many packets."""
    header = b"#!AER-DAT4.0\r\n" + _header()
    body = b""
    for part in np.array_split(np.arange(len(t)), packets) if packets else []:
        packet = _packet(np.asarray(t)[part], np.asarray(x)[part], np.asarray(y)[part], np.asarray(p)[part])
        body += struct.pack("<ii", 0, len(packet)) + (packet[:-10] if broken else packet)
    return header + body


def _header():
    builder = flatbuffers.Builder(1024)
    info = builder.CreateString(XML)
    builder.StartObject(3)
    builder.PrependInt32Slot(0, 0, 0)  # compression: none
    builder.PrependInt64Slot(1, -1, 0)  # no table at the end
    builder.PrependUOffsetTRelativeSlot(2, info, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"IOHE")
    return bytes(builder.Output())


def _packet(t, x, y, p):
    builder = flatbuffers.Builder(1024)
    builder.StartVector(16, len(t), 8)
    for moment, column, row, bright in reversed(list(zip(t, x, y, p, strict=True))):
        # A struct of 16 bytes, written from its end: padding, bool, int16, int16, int64.
        builder.Prep(8, 16)
        builder.Pad(3)
        builder.PrependBool(bool(bright))
        builder.PrependInt16(int(row))
        builder.PrependInt16(int(column))
        builder.PrependInt64(int(moment))
    events = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, events, 0)
    builder.FinishSizePrefixed(builder.EndObject(), b"EVTS")
    return bytes(builder.Output())
