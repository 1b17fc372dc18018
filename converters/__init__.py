"""MVTec-style folders become verified YOLO, COCO, PNG-mask and VOC datasets on one recorded split."""
