"""YOLO, COCO, PNG masks and VOC: instance -> text, and a writer each."""
