;;; habitab.el --- Suggestions as ghost text while you type  -*- lexical-binding: t; -*-

;;; Commentary:

;; For Emacs 28 or later with eglot.
;;
;;   habitab editor emacs > ~/.emacs.d/habitab.el
;;
;; and in init.el:
;;
;;   (load "~/.emacs.d/habitab")
;;
;; While a suggestion is shown, TAB accepts it, C-<right> its next word, C-<down> its next line, and C-g sends it
;; away; at all other times these keys do what they always did.
;;
;; Eglot gives a buffer to one server only.  In the modes of `habitab-modes' that is habitab; take away those for
;; which you want another one.  What should be different stands before the `load', for example:
;;
;;   (setq habitab-modes '(python-mode go-mode)
;;         habitab-settings '(:multiline "never" :languages (:markdown :json-false)))

;;; Code:

(require 'eglot)
(require 'cl-lib)
(require 'subr-x)

(defgroup habitab nil "Suggestions as ghost text while you type." :group 'convenience)

(defcustom habitab-modes '(prog-mode)
  "The major modes, with those derived from them, that habitab serves."
  :type '(repeat symbol))

(defcustom habitab-command '("habitab" "serve")
  "What starts the server."
  :type '(repeat string))

(defcustom habitab-settings nil
  "The server's settings, a plist: its initializationOptions."
  :type 'plist)

(defface habitab-ghost '((t :inherit shadow)) "What is suggested.")

(defvar habitab-map
  (let ((map (make-sparse-keymap)))
    (define-key map (kbd "TAB") #'habitab-accept)
    (define-key map [tab] #'habitab-accept)
    (define-key map (kbd "C-<right>") #'habitab-accept-word)
    (define-key map (kbd "C-<down>") #'habitab-accept-line)
    (define-key map (kbd "C-g") #'habitab-dismiss)
    map)
  "The keys while a suggestion is shown.")

;;;; The ghost

(cl-defstruct (habitab--ghost (:copier nil))
  "TEXT is the rest of the server's ITEM; it would replace the CLOSERS right of the cursor.
These are brackets and quotes that were closed as soon as they were opened."
  overlay item text closers)

(defvar-local habitab--shown nil "The ghost on the screen, or nil.")
(defvar-local habitab--asked nil "The id of the request that is not answered yet, or nil.")
(defvar-local habitab--looked nil "The text's and the cursor's state when they were looked at last.")

(add-to-list 'emulation-mode-map-alists `((habitab--shown . ,habitab-map)))

(defun habitab--server ()
  "The server of this buffer if it lives."
  (when-let ((server (and (eglot-managed-p) (eglot-current-server))))
    (and (jsonrpc-running-p server) server)))

(defun habitab--tell (method item &rest fields)
  "Notify the server of METHOD, about ITEM with FIELDS."
  (when-let ((server (habitab--server)))
    (eglot--signal-textDocument/didChange)
    (jsonrpc-notify server method `(:item ,item ,@fields))))

(defun habitab--units (text)
  "The length of TEXT in UTF-16 code units."
  (/ (length (encode-coding-string text 'utf-16le)) 2))

(defun habitab--hide (&optional reason)
  "Take the ghost from the screen; REASON is told to the server."
  (when-let ((ghost habitab--shown))
    (setq habitab--shown nil)
    (delete-overlay (habitab--ghost-overlay ghost))
    (when reason
      (habitab--tell :habitab/didDismissCompletion (habitab--ghost-item ghost) :reason reason))))

(defun habitab--draw ()
  "Draw the text as it would stand there, before what is right of the cursor."
  (let* ((ghost habitab--shown)
         (overlay (habitab--ghost-overlay ghost))
         (left (habitab--ghost-text ghost))
         ;; The cursor stands on the first sign, which a line break cannot be.
         (text (propertize (if (string-prefix-p "\n" left) (concat " " left) left) 'face 'habitab-ghost))
         (stop (+ (point) (length (habitab--ghost-closers ghost))))
         (over (and (not (eolp)) (or (string-search "\n" text) (> stop (point))))))
    (move-overlay overlay (point) (if over (line-end-position) (point)))
    (overlay-put overlay 'window (selected-window))
    (put-text-property 0 1 'cursor t text)
    (overlay-put overlay 'display (and over (concat text (buffer-substring stop (line-end-position)))))
    (overlay-put overlay 'after-string (and (not over) text))))

(defun habitab--show (item)
  "Show the server's ITEM at the cursor; it may be the rest of what is shown."
  (let* ((range (plist-get item :range))
         ;; A closer is one unit in every encoding.
         (size (- (plist-get (plist-get range :end) :character) (plist-get (plist-get range :start) :character)))
         (known (and habitab--shown
                     (equal (plist-get item :command) (plist-get (habitab--ghost-item habitab--shown) :command)))))
    (unless known
      (habitab--hide "ignored")
      (setq habitab--shown (make-habitab--ghost :overlay (make-overlay (point) (point)) :item item))
      (habitab--tell :textDocument/didShowCompletion item))
    (setf (habitab--ghost-text habitab--shown) (plist-get item :insertText)
          (habitab--ghost-closers habitab--shown)
          (buffer-substring-no-properties (point) (min (+ (point) size) (line-end-position))))
    (habitab--draw)))

(defun habitab--follow ()
  "Shorten the ghost by what was typed since, or take it away."
  (when-let ((ghost habitab--shown))
    (let* ((start (overlay-start (habitab--ghost-overlay ghost)))
           (typed (and (<= start (point)) (buffer-substring-no-properties start (point))))
           (text (habitab--ghost-text ghost)))
      (cond ((not typed) (habitab--hide "ignored"))
            ((string-empty-p typed))
            ((string= typed text) (habitab--hide "typed_through"))
            ((string-prefix-p typed text)
             (setf (habitab--ghost-text ghost) (substring text (length typed)))
             (habitab--draw))
            (t (habitab--hide "typed_over"))))))

;;;; Asking

(define-minor-mode habitab-mode
  "Show suggestions as ghost text while you type."
  :lighter nil
  (if habitab-mode
      (progn
        (setq habitab--looked (habitab--state))
        (add-hook 'post-command-hook #'habitab--look nil t)
        (add-hook 'window-selection-change-functions #'habitab--leave nil t)
        ;; While a completion menu is open, the keys are the menu's.
        (add-hook 'completion-in-region-mode-hook #'habitab--leave nil t))
    (remove-hook 'post-command-hook #'habitab--look t)
    (remove-hook 'window-selection-change-functions #'habitab--leave t)
    (remove-hook 'completion-in-region-mode-hook #'habitab--leave t)
    (habitab--leave)))

(defun habitab--state ()
  "What has to be the same when an answer comes."
  (cons (buffer-chars-modified-tick) (point)))

(defun habitab--withdraw ()
  "Cancel the request that is not answered yet."
  (when-let ((id habitab--asked) (server (habitab--server)))
    (jsonrpc-notify server :$/cancelRequest `(:id ,id)))
  (setq habitab--asked nil))

(defun habitab--answered (buffer state items)
  "Show the first of ITEMS if BUFFER is still in the STATE of the question."
  (when (eq buffer (window-buffer))
    (with-current-buffer buffer
      (when (and habitab-mode (equal state (habitab--state)))
        (setq habitab--asked nil)
        (if (length= items 0)
            (habitab--hide "ignored")
          (habitab--show (aref items 0))))))
  ;; Eglot counts the open requests there.
  (force-mode-line-update t))

(defun habitab--ask ()
  "Ask for a suggestion at the cursor."
  (when-let ((server (habitab--server)))
    (let ((buffer (current-buffer)) (state (habitab--state)))
      (eglot--signal-textDocument/didChange)
      (setq habitab--asked
            (car (jsonrpc--async-request-1
                  server :textDocument/inlineCompletion
                  `(,@(eglot--TextDocumentPositionParams) :context (:triggerKind 2))
                  :success-fn (lambda (items) (habitab--answered buffer state items))
                  ;; A request that was cancelled is no error to be seen in the mode line.
                  :error-fn (lambda (_) (setf (jsonrpc-last-error server) nil))
                  :timeout nil))))))

(defun habitab--look ()
  "Keep the ghost in step with the text, and ask anew after a change."
  (let ((old habitab--looked) (new (habitab--state)))
    (unless (equal old new)
      (setq habitab--looked new)
      ;; Emacs would run a hook that failed no more.
      (with-demoted-errors "habitab: %S"
        (habitab--withdraw)
        (habitab--follow)
        (unless (or (eql (car old) (car new)) (use-region-p) completion-in-region-mode (input-pending-p))
          (habitab--ask))))))

(defun habitab--leave (&rest _)
  "The person turns to something else."
  (habitab--withdraw)
  (habitab--hide "ignored"))

;;;; Accepting

(defun habitab--still (closers left)
  "The last of the CLOSERS right of the cursor that LEFT still brings along."
  (let ((line (car (split-string left "\n"))))
    (while (not (string-match-p (mapconcat (lambda (closer) (regexp-quote (string closer))) closers ".*?") line))
      (setq closers (substring closers 1)))
    closers))

(defun habitab--take (regexp)
  "Accept the front of the ghost that matches REGEXP; the rest stays on the screen."
  (let* ((ghost habitab--shown)
         (item (habitab--ghost-item ghost))
         (text (habitab--ghost-text ghost))
         (closers (habitab--ghost-closers ghost))
         (piece (if (string-match regexp text) (match-string 0 text) text))
         (left (substring text (length piece)))
         (kept (habitab--still closers left)))
    (delete-region (point) (+ (point) (- (length closers) (length kept))))
    (insert piece)
    (if (string-empty-p left)
        (progn
          (habitab--hide)
          (habitab--execute (plist-get item :command)))
      (setf (habitab--ghost-text ghost) left
            (habitab--ghost-closers ghost) kept)
      (habitab--draw)
      (habitab--tell :textDocument/didPartiallyAcceptCompletion item :acceptedLength
                     (- (habitab--units (plist-get item :insertText)) (habitab--units left))))))

(defun habitab--execute (command)
  "Have the server do COMMAND, without waiting for it."
  (when-let ((server (habitab--server)))
    (eglot--signal-textDocument/didChange)
    (jsonrpc-async-request
     server :workspace/executeCommand
     (list :command (plist-get command :command) :arguments (plist-get command :arguments))
     :success-fn #'ignore)))

(defun habitab-accept ()
  "Accept the suggestion."
  (interactive)
  (habitab--take "\\`\\(?:.\\|\n\\)*"))

(defun habitab-accept-word ()
  "Accept the suggestion's next word, or other signs in a row."
  (interactive)
  (habitab--take "\\`[ \t\n]*\\(?:[[:alnum:]_]+\\|[^[:alnum:]_ \t\n]+\\)"))

(defun habitab-accept-line ()
  "Accept the suggestion's next line."
  (interactive)
  (habitab--take "\\`\n*[^\n]+"))

(defun habitab-dismiss ()
  "Send the suggestion away."
  (interactive)
  (habitab--hide "rejected"))

;;;; Eglot

(defclass habitab-server (eglot-lsp-server) () :documentation "The server `habitab serve'.")

(cl-defmethod eglot-client-capabilities ((_server habitab-server))
  "Add inline completion."
  (let ((capabilities (cl-call-next-method)))
    (plist-put (plist-get capabilities :textDocument)
               :inlineCompletion '(:dynamicRegistration :json-false))
    capabilities))

(cl-defmethod eglot-initialization-options ((_server habitab-server))
  "The settings."
  (or habitab-settings (make-hash-table)))

(cl-defmethod eglot-handle-notification
  ((_server habitab-server) (_method (eql habitab/didChangeStatus)) &key kind message &allow-other-keys)
  "Say what is wrong."
  (when (equal kind "Error")
    (message "habitab: %s" message)))

(defun habitab--managed ()
  "Suggest in the buffers that the server manages."
  (if (and (eglot-managed-p) (object-of-class-p (eglot-current-server) 'habitab-server))
      (unless habitab-mode (habitab-mode))
    (when habitab-mode (habitab-mode -1))))

(defvar habitab--missing nil "Whether the person was told that there is no server.")

(defun habitab--ensure ()
  "Connect the buffer to the server, if there is one."
  (cond ((file-remote-p default-directory))
        ((executable-find (car habitab-command)) (eglot-ensure))
        ((not habitab--missing)
         (setq habitab--missing t)
         (display-warning
          'habitab (format "There is no command `%s' on PATH, so nothing is suggested." (car habitab-command))))))

(add-to-list 'eglot-server-programs (cons habitab-modes (cons 'habitab-server habitab-command)))
(add-hook 'eglot-managed-mode-hook #'habitab--managed)
(dolist (mode habitab-modes)
  (add-hook (intern (format "%s-hook" mode)) #'habitab--ensure))

(provide 'habitab)

;;; habitab.el ends here
