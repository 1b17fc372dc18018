"""YOLO and YOLO-World: all that touches ultralytics."""
