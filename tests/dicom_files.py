"""DICOM files of grey values, as scanners write them."""

import io

import numpy as np
import pydicom
from pydicom.dataset import FileMetaDataset


def dicom(values: np.ndarray, **tags: object) -> pydicom.Dataset:
    """A dataset in explicit little endian with grey values (H, W), or frames (N, H, W), of 12 bits.
    tags: further DICOM attributes."""
    data = pydicom.Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.Rows, data.Columns = values.shape[-2:]
    data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
    data.PixelRepresentation = int(values.dtype.kind == "i")
    if values.ndim == 3:
        data.NumberOfFrames = len(values)
    data.PixelData = values.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    return data


def file_content(data: pydicom.Dataset) -> bytes:
    """The bytes of the DICOM file."""
    out = io.BytesIO()
    data.save_as(out, enforce_file_format=True)
    return out.getvalue()
