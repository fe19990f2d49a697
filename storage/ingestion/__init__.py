"""How rows become items: what is known of image files, what each row becomes, what leaves, what is written."""
